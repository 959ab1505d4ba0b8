"""The corpus: the embedded shards of a run in a fixed order, which gives each sample a number.

A sample's number (`gid`) is the start of its shard + its row. The order is that of discovery, by names
and contents, so it does not depend on how the sources were given or which shard was embedded first.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from io import BytesIO

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from made_core.digests import digest
from made_core.io import files, stored
from made_core.io.arrays import StoredArray, readers
from made_core.types import FileRef, Shard
from made_core.vectors import Rows

Gids = npt.NDArray[np.int64]


REF = pa.struct(
    [("path", pa.string()), ("size", pa.int64()), ("digest", pa.string()), ("blocks", pa.string())]
)
SCHEMA = pa.schema(
    [
        ("shard", pa.string()),  # the input shard's id
        ("url", pa.string()),
        ("fingerprint", pa.string()),
        ("size", pa.int64()),  # bytes of the tar
        ("expected", pa.int64()),  # samples according to its stats; null without stats
        ("samples", pa.int64()),
        ("earlier", pa.bool_()),  # part of the earlier corpus that this one extends
        ("rows", REF),
        ("metadata", REF),
        ("tables", pa.map_(pa.string(), REF)),
    ]
)


@dataclass(frozen=True)
class Part:
    """One embedded shard of the corpus."""

    shard: Shard
    start: int  # gid of its first sample
    samples: int
    rows: FileRef  # (samples, dim) float16 unit rows
    metadata: FileRef  # of embed.metadata.SCHEMA
    tables: Mapping[str, FileRef] = field(default_factory=dict)  # further tables of its samples, by name

    @property
    def stop(self) -> int:
        """gid of its last sample + 1."""
        return self.start + self.samples


@dataclass(frozen=True)
class Corpus:
    """The parts in order; those of the earlier corpus that this one extends come first."""

    parts: tuple[Part, ...]
    known: int = 0  # parts of the earlier corpus

    @property
    def new(self) -> tuple[Part, ...]:
        """The parts that this run adds."""
        return self.parts[self.known :]

    @property
    def begin(self) -> int:
        """gid of the first sample that this run adds."""
        return self.parts[self.known - 1].stop if self.known else 0

    def batches(self, shards: int) -> list[str]:
        """Keys of batches of up to `shards` parts that this run adds: see `batch`."""
        stop = len(self.parts)
        return [f"{a}-{min(stop, a + shards)}" for a in range(self.known, stop, shards)]

    def batch(self, key: str) -> tuple[Part, ...]:
        """The parts of the batch `<first part>-<last part + 1>`."""
        start, stop = (int(n) for n in key.split("-"))
        return self.parts[start:stop]

    @property
    def samples(self) -> int:
        """Number of samples, including unreadable ones and those of an earlier corpus."""
        return self.parts[-1].stop if self.parts else 0

    @property
    def key(self) -> str:
        """16 hex digits over the name and content of every embedded shard."""
        return digest([self.known, [[p.shard.id, p.rows.digest, p.metadata.digest] for p in self.parts]])

    @property
    def tables_key(self) -> str:
        """16 hex digits over the content of all further tables; part of the scope of what reads them."""
        return digest([sorted((name, ref.digest) for name, ref in p.tables.items()) for p in self.parts])

    def with_table(self, name: str, tables: Mapping[str, FileRef]) -> Corpus:
        """The corpus with a further table for the parts that `tables` has, by the shard's fingerprint."""

        def with_ours(part: Part) -> Part:
            table = tables.get(part.shard.fingerprint)
            return part if table is None else replace(part, tables={**part.tables, name: table})

        return replace(self, parts=tuple(map(with_ours, self.parts)))

    def without_table(self, name: str) -> Corpus:
        """The corpus whose parts do not have the table `name`."""
        parts = (replace(p, tables={k: v for k, v in p.tables.items() if k != name}) for p in self.parts)
        return replace(self, parts=tuple(parts))

    @cached_property
    def _starts(self) -> Gids:
        return np.array([p.start for p in self.parts], np.int64)

    def part_of(self, gids: Gids) -> npt.NDArray[np.int64]:
        """(len(gids),) index of the part of each gid."""
        index: npt.NDArray[np.int64] = np.searchsorted(self._starts, gids, side="right") - 1
        return index

    def by_part(self, gids: Gids) -> Iterator[tuple[Part, npt.NDArray[np.int64]]]:
        """For each part with some of `gids`: the part, and the positions of these in `gids`."""
        part = self.part_of(gids)
        order = np.argsort(part, kind="stable")
        cuts = np.flatnonzero(np.diff(part[order])) + 1
        for positions in np.split(order, cuts) if len(gids) else []:
            yield self.parts[int(part[positions[0]])], positions

    def gather(self, gids: Gids) -> Rows:
        """(len(gids), dim) float16 stored rows, in the order of `gids`. Raises DamagedFile."""
        parts = list(self.by_part(gids))
        if not parts:
            return np.zeros((0, 0), np.float16)
        width = StoredArray(parts[0][0].rows).shape[1]
        result: Rows = np.empty((len(gids), width), np.float16)

        def fill(some: tuple[Part, npt.NDArray[np.int64]]) -> None:
            part, positions = some
            result[positions] = StoredArray(part.rows).take(gids[positions] - part.start)

        with ThreadPoolExecutor(readers(part.rows for part, _ in parts)) as pool:
            list(pool.map(fill, parts))
        return result


def build(embedded: Iterable[Part], earlier: Corpus | None = None) -> Corpus:
    """The corpus of embedded shards, given in the order of discovery, after those of `earlier`.

    Sets `start` of the parts. Shards without samples are left out.
    """
    parts = list(earlier.parts) if earlier else []
    known, start = len(parts), earlier.samples if earlier else 0
    for part in embedded:
        if part.samples:
            parts.append(replace(part, start=start))
            start += part.samples
    return Corpus(tuple(parts), known)


def put(folder: str, corpus: Corpus) -> FileRef:
    """Writes the corpus as a table of SCHEMA, one row per shard, unless it exists. Raises StorageFailed."""
    records = [
        {
            "shard": p.shard.id, "url": p.shard.url, "fingerprint": p.shard.fingerprint,
            "size": p.shard.size, "expected": p.shard.expected, "samples": p.samples,
            "earlier": n < corpus.known, "rows": asdict(p.rows), "metadata": asdict(p.metadata),
            "tables": [(name, asdict(ref)) for name, ref in sorted(p.tables.items())],
        }
        for n, p in enumerate(corpus.parts)
    ]  # fmt: skip
    sink = BytesIO()
    pq.write_table(pa.Table.from_pylist(records, SCHEMA), sink)
    data = sink.getvalue()
    url = files.join(folder, f"{hashlib.blake2b(data, digest_size=8).hexdigest()}.parquet")
    if files.exists(url) and files.read(url) == data:  # a damaged file is overwritten
        return files.reference(url)
    return files.put_bytes(url, data)


def read(ref: FileRef) -> Corpus:
    """The corpus that `put` wrote. Raises DamagedFile."""
    with stored.local(ref) as path:
        records = pq.read_table(path).to_pylist()
    parts = [
        Part(
            Shard(r["shard"], r["url"], r["fingerprint"], r["size"], r["expected"]),
            0,
            r["samples"],
            FileRef(**r["rows"]),
            FileRef(**r["metadata"]),
            {name: FileRef(**table) for name, table in r["tables"]},
        )
        for r in records
    ]
    return Corpus(build(parts).parts, sum(r["earlier"] for r in records))
