"""The Prefect tasks, one per file: load, call made_core, save, record the result."""
