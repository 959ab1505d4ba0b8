"""The ledger in PostgreSQL: who does which unit of work, and what is done."""
