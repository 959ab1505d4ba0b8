"""What a unit of pairs compares: a range of clusters, or a slice of one that is too large for a unit.

The pairs i < j of a cluster's n rows are cut by ranges of i, of about equal numbers of pairs. The cut
depends on n and the number of parts alone, so whoever compares which slice, each pair is found once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from made_core.stages import PairsOutput
from made_core.types import FileRef


@dataclass(frozen=True)
class PairTask:
    """Clusters start to stop - 1; where `parts` > 1, slice `part` of the pairs of the only one."""

    start: int
    stop: int
    part: int = 0
    parts: int = 1

    @property
    def key(self) -> str:
        """`<start>-<stop>`, or `<cluster>.<part>of<parts>`."""
        return f"{self.start}-{self.stop}" if self.parts == 1 else f"{self.start}.{self.part}of{self.parts}"

    @classmethod
    def of(cls, key: str) -> PairTask:
        """The span that has this key."""
        if "of" not in key:
            start, stop = key.split("-")
            return cls(int(start), int(stop))
        cluster, slice_ = key.split(".")
        part, parts = slice_.split("of")
        return cls(int(cluster), int(cluster) + 1, int(part), int(parts))

    def rows(self, n: int) -> tuple[int, int]:
        """The rows i [first, last) of a cluster of n whose pairs with all later rows are its slice."""
        first, last = (
            n - math.isqrt(n * n * (self.parts - part) // self.parts) for part in (self.part, self.part + 1)
        )
        return first, last


def pack(sizes: npt.NDArray[np.int64], tasks: int) -> list[PairTask]:
    """All clusters in order, at most 3 x tasks pair_tasks, that cost about the same: n^2 + n.

    No span costs more than 1 / tasks of the whole, or a row's pairs: a cluster that does is cut.
    """
    cost = sizes.astype(np.float64) ** 2 + sizes
    limit = cost.sum() / max(1, tasks)
    pair_tasks: list[PairTask] = []
    start, spent = 0, 0.0
    for c, value in enumerate(cost.tolist()):
        if c > start and spent + value > limit:
            pair_tasks.append(PairTask(start, c))
            start, spent = c, 0.0
        spent += value
        if value > limit:
            parts = math.ceil(value / limit)
            pair_tasks += [PairTask(c, c + 1, part, parts) for part in range(parts)]
            start, spent = c + 1, 0.0
    if start < len(sizes):
        pair_tasks.append(PairTask(start, len(sizes)))
    return pair_tasks


def crowded(
    pair_tasks: Sequence[PairTask],
    pairs: Sequence[int],
    dense: Sequence[Sequence[int]],
    most: npt.NDArray[np.int64],
) -> list[int]:
    """The clusters that hold too many near pairs to store, ascending, however they were cut.

    Args:
        pairs, dense: of each span the pairs that it counted, and the clusters that it found crowded.
        most: (k,) near pairs that may be stored of each cluster.
    """
    found = {c for some in dense for c in some}
    together: dict[int, int] = {}
    for span, count in zip(pair_tasks, pairs, strict=True):
        if span.parts > 1:
            together[span.start] = together.get(span.start, 0) + count
    return sorted(found | {c for c, count in together.items() if count > most[c]})


@dataclass(frozen=True)
class FoundPairs:
    """The near pairs that the pair tasks of one run stored."""

    files: tuple[FileRef, ...]  # records of near_pairs.PAIR
    crowded: tuple[int, ...]  # clusters with too many pairs to store, ascending: not in the files
    stored: int  # pairs in the files
    histogram: tuple[int, ...]  # of their similarities


def together(outputs: Mapping[str, PairsOutput], most: npt.NDArray[np.int64]) -> FoundPairs:
    """What all pair tasks found. `most`: (k,) near pairs that may be stored of each cluster.

    A slice's pairs are left out where its cluster turns out to be crowded: all its pairs are found anew.
    """
    tasks = [PairTask.of(key) for key in outputs]
    found = list(outputs.values())
    dense = crowded(tasks, [o.stored for o in found], [o.crowded for o in found], most)
    used = [o for t, o in zip(tasks, found, strict=True) if t.parts == 1 or t.start not in dense]
    counts = np.sum([o.histogram for o in used], axis=0) if used else np.zeros(0, np.int64)
    return FoundPairs(
        files=tuple(o.pairs for o in used),
        crowded=tuple(dense),
        stored=sum(o.stored for o in used),
        histogram=tuple(int(n) for n in counts),
    )
