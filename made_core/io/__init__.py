"""Bytes in and out: the fsspec door, stored files checked when read, the names in store and output."""
