"""The ledger in PostgreSQL: runs, and the state and output of each unit of work."""
