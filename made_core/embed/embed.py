"""Embeds a shard: tar -> unit rows and metadata, one row for EVERY sample."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from torch import Tensor

from made_core.embed import metadata
from made_core.errors import BadImage
from made_core.ingest import tar
from made_core.ingest.decode import decode
from made_core.types import Shard
from made_core.vectors import Rows

if TYPE_CHECKING:
    from made_core.embed.encoder import Encoder


@dataclass(frozen=True)
class EmbeddedShard:
    """A shard's embeddings and metadata, in tar order."""

    rows: Rows  # (n, dim) float16 unit rows; zero for an unreadable sample
    table: pa.Table  # of metadata.SCHEMA
    stray: int  # tar members that belong to no sample


@dataclass
class _Prepared:
    record: metadata.Record
    pixels: Tensor | None


def embed(
    path: Path,
    shard: Shard,
    encoder: Encoder,
    max_pixels: int,
    threads: int,
    progress: Callable[[int], None],
) -> EmbeddedShard:
    """Embeds a shard.

    An unreadable image does not affect other samples: its row is zero and its record has the error.

    Args:
        path: local path of the tar.
        max_pixels: images with more pixels are unreadable.
        threads: that read and decode.
        progress: called with the number of samples done so far.

    Raises:
        CorruptShard: the tar is not complete.
    """
    index = tar.index(path)
    n = len(index.entries)
    rows: Rows = np.zeros((n, encoder.encoding.dim), np.float16)
    records: list[metadata.Record] = []
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with ThreadPoolExecutor(threads) as pool:

            def prepare(entry: tar.Entry) -> _Prepared:
                return _prepare(tar.load(descriptor, entry, shard.url), entry, shard, encoder,
                                max_pixels)  # fmt: skip

            for batch in _ahead(pool, prepare, index.entries, encoder.encoding.batch_size):
                _encode(batch, encoder, rows[len(records) : len(records) + len(batch)])
                records.extend(p.record for p in batch)
                progress(len(records))
    finally:
        os.close(descriptor)
    return EmbeddedShard(rows, pa.Table.from_pylist(records, schema=metadata.SCHEMA), index.stray)


def _ahead(
    pool: ThreadPoolExecutor,
    prepare: Callable[[tar.Entry], _Prepared],
    entries: Sequence[tar.Entry],
    size: int,
) -> Iterator[list[_Prepared]]:
    """Batches in order; the next one is prepared while the caller uses the current one."""
    waiting: list[Future[_Prepared]] = []
    for start in range(0, len(entries), size):
        batch, waiting = waiting, [pool.submit(prepare, e) for e in entries[start : start + size]]
        if batch:
            yield [f.result() for f in batch]
    if waiting:
        yield [f.result() for f in waiting]


def _prepare(
    sample: tar.Sample, entry: tar.Entry, shard: Shard, encoder: Encoder, max_pixels: int
) -> _Prepared:
    record = metadata.record(sample, entry, shard)
    data = sample.image
    if data is None:
        record["error"] = metadata.valid(f"no image among its members: {', '.join(sample.members)}")
        return _Prepared(record, None)
    record["image_digest"] = hashlib.blake2b(data, digest_size=16).digest()
    try:
        image = decode(data, max_pixels)
    except BadImage as error:
        record["error"] = str(error)
        return _Prepared(record, None)
    record["width"], record["height"] = image.size
    return _Prepared(record, encoder.to_pixels(image))


def _encode(batch: list[_Prepared], encoder: Encoder, out: Rows) -> None:
    positions = [i for i, p in enumerate(batch) if p.pixels is not None]
    if not positions:
        return
    vectors = encoder.encode([p.pixels for p in batch if p.pixels is not None])
    for i, vector in zip(positions, vectors, strict=True):
        if np.isfinite(vector).all():
            out[i] = vector
        else:
            batch[i].record["error"] = "its embedding is zero or not finite"
