"""What a run leaves: decision tables, output shards, keep lists, accounts, and how they are published."""
