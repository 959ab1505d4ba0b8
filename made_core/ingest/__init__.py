"""From sources to samples: discovery of shards, reading of tars, decoding of images."""
