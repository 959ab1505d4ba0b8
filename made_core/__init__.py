"""The core of made: everything that needs neither Prefect nor Ray."""

__version__ = "0.2.0"
