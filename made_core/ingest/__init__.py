"""From sources to samples: discovers shards, reads tars, decodes images."""
