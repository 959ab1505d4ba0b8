"""Spherical k-means, rows in cluster order, and the tasks of the pair search."""
