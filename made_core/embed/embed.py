"""Embeds a shard: tar -> unit rows and metadata, one row for EVERY sample, in batches.

Threads read and decode samples ahead of the model, at most `ahead` of them, so memory does not grow with the
shard; `embedded.put` writes a batch while the model computes the next.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import pyarrow as pa
from torch import Tensor

from made_core.embed import metadata
from made_core.embed.embedded import Batch, EmbeddedShard
from made_core.errors import BadImage
from made_core.ingest import tar
from made_core.ingest.decode import decode
from made_core.types import Shard
from made_core.vectors import Rows

if TYPE_CHECKING:
    from made_core.embed.encoder import Encoder

PART = 8  # samples that a thread prepares at a time, at most: handing them over one by one takes longer
WRITTEN = 64  # samples that are handed over to be written at a time, at least, for the same reason
ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")


@dataclass(frozen=True)
class Limits:
    """What bounds the memory of embedding a shard: `threads` decoded images and `ahead` prepared ones."""

    max_pixels: int  # images with more pixels are unreadable
    threads: int  # that read and decode
    ahead: int  # samples read and decoded ahead of the model, at least a batch


@dataclass
class _Prepared:
    record: metadata.Record
    pixels: Tensor | None


def embed(
    path: Path, shard: Shard, encoder: Encoder, limits: Limits, progress: Callable[[int], None]
) -> EmbeddedShard:
    """Embeds a shard, batch by batch as the batches are taken.

    An unreadable image does not affect other samples: its row is zero and its record has the error.

    Args:
        path: local path of the tar; it must exist until all batches are taken.
        progress: called after each batch with the number of samples done so far.

    Raises:
        CorruptShard: the tar is not complete.
    """
    index = tar.index(path)
    batches = _batches(path, index, shard, encoder, limits, progress)
    return EmbeddedShard(len(index.entries), encoder.encoding.dim, index.stray, batches)


def _batches(
    path: Path,
    index: tar.Index,
    shard: Shard,
    encoder: Encoder,
    limits: Limits,
    progress: Callable[[int], None],
) -> Iterator[Batch]:
    size, done = encoder.encoding.batch_size, 0
    descriptor = os.open(path, os.O_RDONLY)

    def prepare(entries: Sequence[tar.Entry]) -> list[_Prepared]:
        return [
            _prepare(tar.load(descriptor, entry, shard.url), entry, shard, encoder, limits.max_pixels)
            for entry in entries
        ]

    try:
        ahead = max(size, limits.ahead)
        step = max(1, min(PART, ahead // 2))
        parts = [index.entries[n : n + step] for n in range(0, len(index.entries), step)]
        # The part that is being taken counts too.
        ready = _ahead(prepare, parts, limits.threads, max(1, ahead // step - 1))
        samples = chain.from_iterable(ready)
        rows: list[Rows] = []
        records: list[metadata.Record] = []
        while batch := list(islice(samples, size)):
            rows.append(_encode(batch, encoder))
            records.extend(p.record for p in batch)
            done += len(batch)
            progress(done)
            if len(records) >= WRITTEN or done == len(index.entries):
                yield Batch(np.concatenate(rows), pa.Table.from_pylist(records, schema=metadata.SCHEMA))
                rows, records = [], []
    finally:
        ready.close()
        os.close(descriptor)


def _ahead(
    do: Callable[[ItemT], ResultT], items: Iterable[ItemT], threads: int, ahead: int
) -> Generator[ResultT, None, None]:
    """The results in order, computed by threads at most `ahead` items before they are taken."""
    rest = iter(items)
    pool = ThreadPoolExecutor(threads)
    try:
        waiting: deque[Future[ResultT]] = deque(pool.submit(do, item) for item in islice(rest, ahead))
        while waiting:
            result = waiting.popleft().result()
            waiting.extend(pool.submit(do, item) for item in islice(rest, 1))
            yield result
    finally:
        pool.shutdown(cancel_futures=True)


def _prepare(
    sample: tar.Sample, entry: tar.Entry, shard: Shard, encoder: Encoder, max_pixels: int
) -> _Prepared:
    record = metadata.record(sample, entry, shard)
    data = sample.image
    if data is None:
        record["error"] = metadata.valid(f"no image among its members: {', '.join(sample.members)}")
        return _Prepared(record, None)
    record["image_digest"] = sample.image_digest
    try:
        image = decode(data, max_pixels)
    except BadImage as error:
        record["error"] = str(error)
        return _Prepared(record, None)
    record["height"], record["width"] = image.shape[:2]
    return _Prepared(record, encoder.to_pixels(image))


def _encode(batch: list[_Prepared], encoder: Encoder) -> Rows:
    """(len(batch), dim) float16 rows; the records of those without a valid one get an error."""
    rows: Rows = np.zeros((len(batch), encoder.encoding.dim), np.float16)
    positions = [i for i, p in enumerate(batch) if p.pixels is not None]
    if not positions:
        return rows
    vectors = encoder.encode([p.pixels for p in batch if p.pixels is not None])
    for i, vector in zip(positions, vectors, strict=True):
        if np.isfinite(vector).all():
            rows[i] = vector
        else:
            batch[i].record["error"] = "its embedding is zero or not finite"
    return rows
