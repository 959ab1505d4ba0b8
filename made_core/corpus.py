"""The corpus: the embedded shards of a run in one fixed order, so that each sample has a number.

A sample's number (`gid`) is its shard's start + its row. The order is discovery's, of names and
contents, so it depends neither on how the sources were given nor on who embedded what first.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from made_core import embeddings, files
from made_core.data import FileRef, Shard
from made_core.errors import DamagedFile
from made_core.recipe import digest

Gids = npt.NDArray[np.int64]
READERS = 8  # threads that read remote slices: the wait is for storage
PIECE = 8 << 20  # bytes of a remote file that a reader holds at a time
GAP = 1 << 20  # bytes between two wanted rows that are read too: a request costs as much
HEADER = 1024  # bytes that hold the header of every `.npy` of ours


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

    def gather(self, gids: Gids) -> embeddings.Rows:
        """(len(gids), dim) float16 stored rows. Raises DamagedFile."""
        held = list(self.by_part(gids))
        if not held:
            return np.zeros((0, 0), np.float16)
        with sliced(held[0][0].rows, 0, 0) as none:
            result: embeddings.Rows = np.empty((len(gids), none.shape[1]), np.float16)

        def fill(some: tuple[Part, npt.NDArray[np.int64]]) -> None:
            part, positions = some
            result[positions] = taken(part.rows, gids[positions] - part.start)

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
        for field in ("path", "size", "digest"):
            columns[f"{name}_{field}"] = [getattr(getattr(p, name), field) for p in corpus.parts]
    url = files.join(folder, f"{digest(columns)}.parquet")
    if files.exists(url):
        return files.reference(url)
    table = pa.table(columns)

    def write(path: Path) -> None:
        pq.write_table(table, path)

    return files.put(url, write)


def read(ref: FileRef) -> Corpus:
    """The corpus that `put` wrote. Raises DamagedFile."""
    with files.stored(ref) as path:
        records = pq.read_table(path).to_pylist()
    whole = build(
        [
            (
                Shard(r["shard"], r["url"], r["fingerprint"], r["size"], r["expected"]),
                r["samples"],
                FileRef(r["rows_path"], r["rows_size"], r["rows_digest"]),
                FileRef(r["table_path"], r["table_size"], r["table_digest"]),
            )
            for r in records
        ]
    )
    return Corpus(whole.parts, sum(r["earlier"] for r in records))


def put_array(url: str, array: npt.NDArray[np.generic]) -> FileRef:
    """Puts an array as `.npy`. Raises StorageFailed."""

    def write(path: Path) -> None:
        with open(path, "wb") as file:
            np.save(file, array)

    return files.put(url, write)


@contextmanager
def mapped(ref: FileRef) -> Iterator[npt.NDArray[Any]]:
    """A stored `.npy`, read as it is touched; its size is checked. Raises DamagedFile."""
    with files.stored(ref, whole=False) as path:
        yield np.load(path, mmap_mode="r" if ref.size > 4096 else None)


def readers(refs: Iterable[FileRef]) -> int:
    """Threads to read files with: local ones are mapped, which threads only slow down."""
    return 1 if all(files.is_local(ref.path) for ref in refs) else READERS


@contextmanager
def sliced(ref: FileRef, start: int, stop: int) -> Iterator[npt.NDArray[Any]]:
    """The rows [start, stop) of a stored `.npy`, read as they are touched; its size is checked.

    Of a remote file these rows alone are copied, a piece at a time. Raises DamagedFile.
    """
    if files.is_local(ref.path):
        with mapped(ref) as array:
            yield array[start:stop]
        return
    remote = _Remote.open(ref)
    shape = (stop - start, *remote.shape[1:])
    if not math.prod(shape):
        yield np.zeros(shape, remote.dtype)
        return
    step = max(1, PIECE // remote.width)
    with files.scratch() as folder:
        with open(folder / "rows", "wb") as file:
            for a in range(start, stop, step):
                file.write(remote.read(a, min(stop, a + step)))
        yield np.memmap(folder / "rows", remote.dtype, "r", shape=shape)


def taken(ref: FileRef, rows: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
    """Some rows of a stored `.npy`, in that order; its size is checked. Raises DamagedFile."""
    if files.is_local(ref.path):
        with mapped(ref) as array:
            return np.asarray(array[rows])
    remote = _Remote.open(ref)
    result = np.empty((len(rows), *remote.shape[1:]), remote.dtype)
    order = np.argsort(rows)
    far = np.flatnonzero(np.diff(rows[order]) * remote.width > GAP) + 1
    for run in np.split(order, far) if math.prod(result.shape) else []:
        start, stop = int(rows[run[0]]), int(rows[run[-1]]) + 1
        some = np.frombuffer(remote.read(start, stop), remote.dtype)
        result[run] = some.reshape(stop - start, *remote.shape[1:])[rows[run] - start]
    return result


def length(ref: FileRef) -> int:
    """Rows of a stored `.npy`. Raises DamagedFile."""
    if files.is_local(ref.path):
        with mapped(ref) as array:
            return len(array)
    return _Remote.open(ref).shape[0]


@dataclass(frozen=True)
class _Remote:
    """A `.npy` in an object store, read by ranges."""

    ref: FileRef
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    begin: int  # where its first row begins

    @classmethod
    def open(cls, ref: FileRef) -> _Remote:
        """Reads the header. Raises DamagedFile."""
        files.check_size(ref)
        head = BytesIO(files.read_range(ref, 0, min(HEADER, ref.size)))
        try:
            np.lib.format.read_magic(head)
            shape, _, dtype = np.lib.format.read_array_header_1_0(head)
        except ValueError as error:
            raise DamagedFile(f"{ref.path} is no array: {error}") from None
        return cls(ref, shape, dtype, head.tell())

    @property
    def width(self) -> int:
        """Bytes of a row."""
        return self.dtype.itemsize * math.prod(self.shape[1:])

    def read(self, start: int, stop: int) -> bytes:
        """The rows [start, stop). Raises DamagedFile."""
        return files.read_range(self.ref, self.begin + start * self.width, self.begin + stop * self.width)
