"""A sample's caption and URL: of a kept one from its output shard's table, of another from its input tar."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from made_core.errors import CorruptShard, StorageFailed
from made_core.imports import without
from made_core.io import files


@dataclass(frozen=True)
class SampleFacts:
    """What a person knows a sample by; None where it has none."""

    caption: str | None
    url: str | None  # where img2dataset got it


def of_kept(output: str, record: dict[str, Any]) -> SampleFacts:
    """Of a kept sample's row in `decisions`. Raises FileNotFoundError."""
    url = files.join(output, "shards", f"{record['output_shard']}.parquet")
    with files.local(url) as path:
        wanted = [("key", "=", record["output_key"])]
        (row,) = pq.read_table(path, columns=["caption", "url"], filters=wanted).to_pylist()
    return SampleFacts(row["caption"], row["url"])


def of_input(shard: str, record: dict[str, Any]) -> SampleFacts | None:
    """Of any sample's row in `decisions`, from the input tar at `shard`.

    None: the tar is gone, was changed, or lies in an object store, whence all of it would be fetched.
    """
    if not files.is_local(shard):
        return None
    with without("torch"):  # of webdataset's
        from made_core.embed import metadata
        from made_core.ingest import tar
    try:
        path = Path(files.absolute(shard))
        entry = tar.index(path).entries[record["row"]]
        descriptor = os.open(path, os.O_RDONLY)
        try:
            sample = tar.load(descriptor, entry, shard)
        finally:
            os.close(descriptor)
    except (OSError, IndexError, CorruptShard, StorageFailed):
        return None
    if metadata.valid(entry.key) != record["key"]:
        return None
    found = metadata.described(sample)
    return SampleFacts(found.caption, found.url)
