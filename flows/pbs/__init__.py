"""Runs on clusters of a PBS batch system."""
