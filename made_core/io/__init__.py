"""Input and output: files through fsspec, stored files checked on reading, names in store and output."""
