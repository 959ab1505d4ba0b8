"""Spherical k-means, rows in cluster order, and the cut of the pair search into units."""
