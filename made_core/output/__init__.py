"""The output of a run: decision tables, output shards, keep lists, accounts, summary, and publishing."""
