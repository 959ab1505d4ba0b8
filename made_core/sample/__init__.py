"""A generated sample data set with known duplicates, and the score of decisions on it."""
