"""The core of made: types and algorithms that need neither Prefect nor Ray."""

__version__ = "0.2.0"
