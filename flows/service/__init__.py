"""The service: PostgreSQL, the Prefect server, its work pool and a worker, supervised on one machine."""
