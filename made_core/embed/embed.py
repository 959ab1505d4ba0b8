"""Embeds a shard: tar -> unit rows and metadata, one row for EVERY sample, in batches.

Threads read and decode samples ahead of the model, straight into the memory of a batch, which is used again
once its rows are known: memory does not grow with the shard. A GPU gets a batch before it has finished the
one before. `embedded.put` writes a batch while the model computes the next.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from torch import Tensor

from made_core.embed import metadata
from made_core.embed.embedded import Batch, EmbeddedShard
from made_core.errors import BadImage
from made_core.ingest import tar
from made_core.ingest.decode import Pixels, decode
from made_core.types import Shard
from made_core.vectors import Rows

if TYPE_CHECKING:
    from made_core.embed.encoder import Encoder, Pending

PART = 8  # samples that a thread prepares at a time, at most: handing them over one by one takes longer
AHEAD = 2  # batches that threads fill, at least: with one they would all wait for its last image
WRITTEN = 64  # samples that are handed over to be written at a time, at least, for the same reason


@dataclass(frozen=True)
class Limits:
    """What bounds the memory of embedding a shard: `threads` decoded images and `ahead` prepared ones."""

    max_pixels: int  # images with more pixels are unreadable
    threads: int  # that read and decode
    ahead: int  # samples read and decoded ahead of the model, at least AHEAD batches


@dataclass(frozen=True)
class _Filling:
    """A batch that threads fill."""

    images: Tensor  # (batch_size, size, size, 3) uint8
    records: list[Future[list[metadata.Record]]]


@dataclass(frozen=True)
class _Computing:
    """A batch that the model has."""

    images: Tensor
    records: list[metadata.Record]
    rows: Pending


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
) -> Generator[Batch]:
    """The samples as they are written: WRITTEN or more at a time."""
    done = 0
    rows: list[Rows] = []
    records: list[metadata.Record] = []
    for some, described in _encoded(path, index.entries, shard, encoder, limits):
        rows.append(some)
        records.extend(described)
        done += len(described)
        progress(done)
        if len(records) >= WRITTEN or done == len(index.entries):
            yield Batch(np.concatenate(rows), pa.Table.from_pylist(records, schema=metadata.SCHEMA))
            rows, records = [], []


def _encoded(
    path: Path, entries: Sequence[tar.Entry], shard: Shard, encoder: Encoder, limits: Limits
) -> Iterator[tuple[Rows, list[metadata.Record]]]:
    """The rows and records of each batch of the model."""
    size = encoder.encoding.batch_size
    batches = [entries[n : n + size] for n in range(0, len(entries), size)]
    rest = iter(batches)
    filling: deque[_Filling] = deque()
    computing: deque[_Computing] = deque()
    spare: list[Tensor] = []
    descriptor = os.open(path, os.O_RDONLY)
    pool = ThreadPoolExecutor(limits.threads)

    def prepare(part: Sequence[tar.Entry], images: Pixels) -> list[metadata.Record]:
        return [
            _prepare(tar.load(descriptor, entry, shard.url), entry, shard, encoder, limits.max_pixels, image)
            for entry, image in zip(part, images[: len(part)], strict=True)
        ]

    def fill_next() -> None:
        batch = next(rest, ())
        if batch:
            images = spare.pop() if spare else encoder.room()
            memory = images.numpy()
            parts = [slice(n, n + PART) for n in range(0, len(batch), PART)]
            filling.append(_Filling(images, [pool.submit(prepare, batch[p], memory[p]) for p in parts]))

    try:
        for _ in batches[: max(AHEAD, limits.ahead // size)]:
            fill_next()
        while filling or computing:
            if filling and len(computing) <= encoder.queue:
                ready = filling.popleft()
                described = [record for part in ready.records for record in part.result()]
                fill_next()  # before the model starts, which on a CPU returns when it is done
                computing.append(_Computing(ready.images, described, encoder.start(ready.images)))
                continue
            done = computing.popleft()
            yield _valid(done.rows(), done.records), done.records
            spare.append(done.images)
    finally:
        pool.shutdown(cancel_futures=True)
        os.close(descriptor)


def _prepare(
    sample: tar.Sample, entry: tar.Entry, shard: Shard, encoder: Encoder, max_pixels: int, out: Pixels
) -> metadata.Record:
    """The sample's record; what the model sees of it goes to `out`: zeros, and an error, without an image."""
    record = metadata.record(sample, entry, shard)
    data = sample.image
    if data is None:
        record["error"] = metadata.valid(f"no image among its members: {', '.join(sample.members)}")
        out[:] = 0
        return record
    record["image_digest"] = sample.image_digest
    try:
        image = decode(data, max_pixels)
        record["height"], record["width"] = image.shape[:2]
        out[:] = encoder.to_pixels(image)
    except BadImage as error:
        record["error"] = str(error)
        out[:] = 0
    return record


def _valid(vectors: npt.NDArray[np.float32], records: Sequence[metadata.Record]) -> Rows:
    """(len(records), dim) float16 rows; zero where a record has an error, as one without a valid row gets."""
    rows: Rows = np.zeros((len(records), vectors.shape[1]), np.float16)
    for i, record in enumerate(records):
        if record["error"] is None and np.isnan(vectors[i, 0]):
            record["error"] = "its embedding is zero or not finite"
        if record["error"] is None:
            rows[i] = vectors[i]
    return rows
