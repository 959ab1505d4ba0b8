"""Spherical k-means, rows in cluster order, and how the search for pairs is cut."""
