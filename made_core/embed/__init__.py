"""From a tar to embeddings and metadata: the encoders, and the stored rows and metadata."""
