"""A sample's caption and URL: from its output shard's table, if it is in one, else from the input tar."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq

from made_core.errors import CorruptShard, StorageFailed
from made_core.imports import without
from made_core.io import files


@dataclass(frozen=True)
class SampleFacts:
    """What identifies a sample to a person; None if it has none."""

    caption: str | None
    url: str | None  # from which img2dataset downloaded the image


def of_kept(output: str, output_shard: str, output_key: str) -> SampleFacts:
    """The facts of a kept sample, by its shard and key in the output. Raises FileNotFoundError."""
    url = files.join(output, "shards", f"{output_shard}.parquet")
    with files.local(url) as path:
        wanted = [("key", "=", output_key)]
        (row,) = pq.read_table(path, columns=["caption", "url"], filters=wanted).to_pylist()
    return SampleFacts(row["caption"], row["url"])


def of_input(shard: str, row: int, key: str) -> SampleFacts | None:
    """The facts of any sample, from `row` of the input tar with the URL `shard`.

    None if the tar is missing, has another key in that row, or is remote: it would have to be downloaded.
    """
    if not files.is_local(shard):
        return None
    with without("torch"):  # optional for webdataset
        from made_core.embed import metadata
        from made_core.ingest import tar
    try:
        path = Path(files.absolute(shard))
        entry = tar.index(path).entries[row]
        descriptor = os.open(path, os.O_RDONLY)
        try:
            sample = tar.load(descriptor, entry, shard)
        finally:
            os.close(descriptor)
    except (OSError, IndexError, CorruptShard, StorageFailed):
        return None
    if metadata.valid(entry.key) != key:
        return None
    described = metadata.described(sample)
    return SampleFacts(described.caption, described.url)
