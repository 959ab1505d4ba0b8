"""The embedded shards as one corpus: numbering, identity, equal images."""
