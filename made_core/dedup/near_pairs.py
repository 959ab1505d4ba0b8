"""Near pairs within a cluster: found in blocks, each pair once, decided by the float64 product."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
import numpy.typing as npt

from made_core.io import stored
from made_core.types import FileRef
from made_core.vectors import Rows, cosine

if TYPE_CHECKING:  # it imports torch, which a flow does not need
    from made_core.dedup import candidates as products

BINS = 60  # of the histogram of similarities
EXACT_CHUNK = 1024  # pairs decided at a time: 8 MB with 512 dimensions

PAIR = np.dtype([("i", "<i8"), ("j", "<i8"), ("similarity", "<f8")])
Pairs = npt.NDArray[np.void]  # (n,) of PAIR: gids i < j
# (i, j, similarity), each (m,)
Found = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float64]]


@dataclass(frozen=True)
class Candidates:
    """Which pairs of a cluster's rows it reports, so that a pair seen by two clusters is reported once."""

    cluster: int
    probes: npt.NDArray[np.int32]  # (n, p) nearest clusters of each row, home first

    def allowed(self, i: npt.NDArray[np.int64], j: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """(m,) whether this cluster reports the pairs of rows (i, j).

        A pair is a candidate if home(i) is in probes(j), or home(j) in probes(i).
        """
        hi, hj, c = self.probes[i, 0], self.probes[j, 0], self.cluster
        other = np.where(hi == c, hj, hi)
        visitor = np.where(hi == c, i, j)  # the row at home here, which the other's home may see too
        seen_there = (self.probes[visitor] == other[:, None]).any(axis=1)
        at_home: npt.NDArray[np.bool_] = (hi == c) | (hj == c)
        mine: npt.NDArray[np.bool_] = at_home & ((hi == hj) | ~seen_there | (c < other))
        return mine


def near(
    rows: Rows,
    bound: float,
    block: int,
    some: tuple[int, int] | None = None,
    known: int = 0,
    chunk: int = EXACT_CHUNK,
) -> Iterator[Found]:
    """The pairs i < j of (n, dim) stored rows whose similarity exceeds `bound`, block by block.

    The similarity is the float64 product of the stored rows, normalised in float64. Memory is a few
    blocks of (block, block) float32, whatever n.

    Args:
        some: (start, stop): only pairs with start <= i < stop. None: all.
        known: pairs of two of the first `known` rows are left out: an earlier run has them.
        chunk: pairs whose float64 product is computed at a time.

    Yields:
        (i, j, similarity), each (m,).
    """
    from made_core.dedup import candidates as products

    n = len(rows)
    first_row, stop = some or (0, n)
    for begin, end in ((first_row, min(known, stop)), (max(known, first_row), stop)):
        starts = range(begin, end, block)
        held = products.held(rows.shape[1], block)
        for number in range(0, len(starts), held):
            # Each right block is prepared once for all these left ones.
            lefts: dict[int, products.Block] = {}  # the ones before are freed
            for a in starts[number : number + held]:
                lefts[a] = products.prepare(rows[a : min(a + block, end)])
            for b in range(max(starts[number], known), n, block):
                whole = b in lefts and len(lefts[b].rows) == min(block, n - b)
                right = lefts[b] if whole else products.prepare(rows[b : b + block])
                for a, left in lefts.items():
                    if a <= b:
                        yield from _decided(rows, bound, left, right, a, b, chunk)


def _decided(
    rows: Rows, bound: float, left: products.Block, right: products.Block, a: int, b: int, chunk: int
) -> Iterator[Found]:
    """The pairs of the rows from a on with those from b on."""
    from made_core.dedup import candidates as products

    first, second = products.candidates(left, right, bound)
    first, second = first + a, second + b
    if a == b:
        first, second = first[first < second], second[first < second]
    for start in range(0, len(first), chunk):
        i, j = first[start : start + chunk], second[start : start + chunk]
        exact = cosine(rows[i], rows[j])
        keep = exact > bound
        if keep.any():
            yield i[keep], j[keep], exact[keep]


def of_cluster(
    cluster: int,
    rows: Rows,
    members: npt.NDArray[np.void],
    bound: float,
    block: int,
    some: tuple[int, int] | None = None,
    begin: int = 0,
) -> Iterator[Pairs]:
    """The near pairs that this cluster reports, by gid, block by block.

    Args:
        members: (n,) of cluster_rows.member_type. some: see `near`.
        begin: pairs of two samples with gids below it are left out; these must be the first rows.
    """
    candidates = Candidates(cluster, members["probes"])
    gids = members["gid"]
    for i, j, value in near(rows, bound, block, some, int((gids < begin).sum())):
        mine = candidates.allowed(i, j)
        a, b = gids[i[mine]], gids[j[mine]]
        pairs = np.empty(len(a), PAIR)
        pairs["i"], pairs["j"] = np.minimum(a, b), np.maximum(a, b)
        pairs["similarity"] = value[mine]
        yield pairs


class Writer:
    """Writes the near pairs of clusters to a file, except those of crowded clusters."""

    def __init__(
        self, bound: float, block: int, most: int, begin: int, progress: Callable[[int], None]
    ) -> None:
        """Args: bound, block, begin: see `of_cluster`; most: maximum number of pairs stored per row."""
        self._bound, self._block, self._most, self._begin = bound, block, most, begin
        self._progress = progress
        self.rows = 0  # rows compared so far
        self.histogram = np.zeros(BINS, np.int64)  # of the similarities of the stored pairs
        self.crowded: list[int] = []  # clusters with more pairs, none of which are stored

    def add(
        self, file: BinaryIO, cluster: int, rows: Rows, members: npt.NDArray[np.void], some: tuple[int, int]
    ) -> None:
        """Writes the pairs of one cluster; `some`: see `near`."""
        start, counts = file.tell(), np.zeros(BINS, np.int64)
        for pairs in of_cluster(cluster, rows, members, self._bound, self._block, some, self._begin):
            file.write(pairs.tobytes())
            counts += histogram(pairs["similarity"], self._bound)
            self._progress(self.rows)
            if counts.sum() > self._most * len(members):
                self.crowded.append(cluster)
                file.seek(start)
                file.truncate()
                break
        else:
            self.histogram += counts
        self.rows += some[1] - some[0]
        self._progress(self.rows)


def histogram(values: npt.NDArray[np.float64], bound: float) -> npt.NDArray[np.int64]:
    """(BINS,) counts of similarities in equal bins from `bound` to 1; values outside are clipped."""
    clipped = np.clip(values, bound, 1)
    counts: npt.NDArray[np.int64] = np.histogram(clipped, BINS, (bound, 1.0))[0]
    return counts


def read(refs: Sequence[FileRef]) -> Pairs:
    """All pairs of stored files of PAIR records, in memory. Raises DamagedFile."""
    pairs = np.empty(sum(ref.size for ref in refs) // PAIR.itemsize, PAIR)
    rest = pairs.data.cast("B")
    for ref in refs:
        with stored.local(ref) as path, open(path, "rb") as file:
            file.readinto(rest[: ref.size])
        rest = rest[ref.size :]
    return pairs
