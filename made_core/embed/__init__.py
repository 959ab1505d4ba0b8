"""From a tar to unit rows and metadata: the encoders, and what is stored of each sample."""
