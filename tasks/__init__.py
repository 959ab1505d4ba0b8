"""The verbs: one Prefect task a file; load, call made_core, save, mark."""
