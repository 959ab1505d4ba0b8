"""The nouns of made: everything that would be true without Prefect and Ray."""

__version__ = "0.1.0"
