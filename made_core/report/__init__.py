"""HTML pages for people: the report with its examples and charts, and the sweep of eps."""
