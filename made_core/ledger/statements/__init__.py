"""The ledger's SQL: a module for each noun, a name and a sentence for each statement."""
