"""A sample data set whose duplicates are known, and the score of decisions against it."""
