"""What a person looks at: the report, examples, charts, the sweep of eps."""
