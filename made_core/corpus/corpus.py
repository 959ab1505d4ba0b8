"""The corpus: the embedded shards of a run in one fixed order, so that each sample has a number.

A sample's number (`gid`) is its shard's start + its row. The order is discovery's, of names and
contents, so it depends neither on how the sources were given nor on who embedded what first.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from io import BytesIO

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from made_core.io import files, stored
from made_core.io.arrays import StoredArray, readers
from made_core.recipe import digest
from made_core.types import FileRef, Shard
from made_core.vectors import Rows

Gids = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Part:
    """One embedded shard of the corpus."""

    shard: Shard
    start: int  # gid of its first sample
    samples: int
    rows: FileRef  # (samples, dim) float16
    table: FileRef  # metadata, embeddings.SCHEMA

    @property
    def stop(self) -> int:
        """gid behind its last sample."""
        return self.start + self.samples


@dataclass(frozen=True)
class Corpus:
    """The parts in order, first those of an earlier corpus that this one extends."""

    parts: tuple[Part, ...]
    known: int = 0  # parts of the earlier corpus

    @property
    def new(self) -> tuple[Part, ...]:
        """The parts that this run brings."""
        return self.parts[self.known :]

    @property
    def begin(self) -> int:
        """gid of the first sample that this run brings."""
        return self.parts[self.known - 1].stop if self.known else 0

    @property
    def samples(self) -> int:
        """Samples, the unreadable ones and those of an earlier corpus included."""
        return self.parts[-1].stop if self.parts else 0

    @property
    def key(self) -> str:
        """16 hex digits over every embedded shard's name and content."""
        return digest([self.known, [[p.shard.id, p.rows.digest, p.table.digest] for p in self.parts]])

    def part_of(self, gids: Gids) -> npt.NDArray[np.int64]:
        """The index of the part that holds each gid."""
        starts = np.array([p.start for p in self.parts], np.int64)
        found: npt.NDArray[np.int64] = np.searchsorted(starts, gids, side="right") - 1
        return found

    def by_part(self, gids: Gids) -> Iterator[tuple[Part, npt.NDArray[np.int64]]]:
        """For each part that holds some of `gids`: the part, and the positions in `gids`."""
        part = self.part_of(gids)
        order = np.argsort(part, kind="stable")
        cuts = np.flatnonzero(np.diff(part[order])) + 1
        for positions in np.split(order, cuts) if len(gids) else []:
            yield self.parts[int(part[positions[0]])], positions

    def gather(self, gids: Gids) -> Rows:
        """(len(gids), dim) float16 stored rows. Raises DamagedFile."""
        held = list(self.by_part(gids))
        if not held:
            return np.zeros((0, 0), np.float16)
        width = StoredArray(held[0][0].rows).shape[1]
        result: Rows = np.empty((len(gids), width), np.float16)

        def fill(some: tuple[Part, npt.NDArray[np.int64]]) -> None:
            part, positions = some
            result[positions] = StoredArray(part.rows).take(gids[positions] - part.start)

        with ThreadPoolExecutor(readers(part.rows for part, _ in held)) as pool:
            list(pool.map(fill, held))
        return result


def build(embedded: Sequence[tuple[Shard, int, FileRef, FileRef]], earlier: Corpus | None = None) -> Corpus:
    """The corpus of (shard, samples, rows, table) in discovery's order, behind those of `earlier`.

    Empty shards are left out: they hold no sample, so numbering passes over them.
    """
    parts = list(earlier.parts) if earlier else []
    known, start = len(parts), earlier.samples if earlier else 0
    for shard, samples, rows, table in embedded:
        if samples:
            parts.append(Part(shard, start, samples, rows, table))
            start += samples
    return Corpus(tuple(parts), known)


def put(folder: str, corpus: Corpus) -> FileRef:
    """Puts the corpus as a table with a row per shard, unless it stands there. Raises StorageFailed."""
    columns: dict[str, list[str | int | None]] = {
        "shard": [p.shard.id for p in corpus.parts],
        "url": [p.shard.url for p in corpus.parts],
        "fingerprint": [p.shard.fingerprint for p in corpus.parts],
        "size": [p.shard.size for p in corpus.parts],
        "expected": [p.shard.expected for p in corpus.parts],
        "samples": [p.samples for p in corpus.parts],
        "earlier": [n < corpus.known for n in range(len(corpus.parts))],
    }
    for name in ("rows", "table"):
        for field in fields(FileRef):
            columns[f"{name}_{field.name}"] = [getattr(getattr(p, name), field.name) for p in corpus.parts]
    sink = BytesIO()
    pq.write_table(pa.table(columns), sink)
    data = sink.getvalue()
    url = files.join(folder, f"{hashlib.blake2b(data, digest_size=8).hexdigest()}.parquet")
    if files.exists(url) and files.read(url) == data:  # else it is damaged: made again at once
        return files.reference(url)
    return files.put_bytes(url, data)


def read(ref: FileRef) -> Corpus:
    """The corpus that `put` wrote. Raises DamagedFile."""
    with stored.local(ref) as path:
        records = pq.read_table(path).to_pylist()
    whole = build(
        [
            (
                Shard(r["shard"], r["url"], r["fingerprint"], r["size"], r["expected"]),
                r["samples"],
                *(FileRef(*(r[f"{name}_{f.name}"] for f in fields(FileRef))) for name in ("rows", "table")),
            )
            for r in records
        ]
    )
    return Corpus(whole.parts, sum(r["earlier"] for r in records))
