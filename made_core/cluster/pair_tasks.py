"""Pair tasks: each compares the rows of a range of clusters, or a slice of a cluster that is too large.

The pairs i < j of a cluster's n rows are split by ranges of i with about equal numbers of pairs. The
split depends only on n and the number of parts, so each pair is found exactly once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from made_core.io import files
from made_core.stages import AssignOutput, PairsOutput
from made_core.types import FileRef

COST = 4e9  # of a task, as `number` counts it: half to one and a half minutes of a core with 512 dimensions
MOST = 16  # times this cost, however much is read: products then take longer than reading
SLICE = 2 * files.BLOCK  # bytes: half as much again is read of slices of this length
LEAST = 64  # tasks, however short the slices: workers wait for work otherwise


@dataclass(frozen=True)
class PairTask:
    """Clusters start to stop - 1; if `parts` > 1, slice `part` of the pairs of the single cluster."""

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
        """The pair task with this key."""
        if "of" not in key:
            start, stop = key.split("-")
            return cls(int(start), int(stop))
        cluster, slice_ = key.split(".")
        part, parts = slice_.split("of")
        return cls(int(cluster), int(cluster) + 1, int(part), int(parts))

    def rows(self, n: int) -> tuple[int, int]:
        """The rows i [first, last) of a cluster of n rows whose pairs with all later rows are the slice."""
        first, last = (
            n - math.isqrt(n * n * (self.parts - part) // self.parts) for part in (self.part, self.part + 1)
        )
        return first, last


def number(sizes: npt.NDArray[np.int64], batches: Sequence[AssignOutput], cost: float = COST) -> int:
    """The number of pair tasks to aim at: each of about `cost`, the sum of its clusters' squared sizes.

    A task reads a slice of each batch, in whole blocks. Where there are so many batches that slices would be
    shorter than SLICE, there are fewer tasks, but at least LEAST, and none of more than MOST times the cost.

    Args:
        sizes: (k,) rows of each cluster.
    """
    by_cost = round(float((sizes.astype(np.float64) ** 2).sum()) / cost)
    by_slices = sum(b.rows.size for b in batches) // (max(1, len(batches)) * SLICE)
    return max(1, min(by_cost, max(LEAST, by_slices, by_cost // MOST)))


def pack(sizes: npt.NDArray[np.int64], tasks: int) -> list[PairTask]:
    """At most 3 x tasks pair tasks of about equal cost, covering all clusters in order.

    A cluster of n rows costs n^2 + n. A cluster that costs more than 1 / tasks of the total is split;
    the smallest slice has the pairs of one row.

    Args:
        sizes: (k,) rows of each cluster.
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
    crowded_clusters: Sequence[Sequence[int]],
    most: npt.NDArray[np.int64],
) -> list[int]:
    """The clusters with too many near pairs to store, ascending, however they were split.

    Args:
        pairs: number of pairs that each task stored.
        crowded_clusters: the clusters that each task found crowded.
        most: (k,) maximum number of near pairs stored per cluster.
    """
    found = {c for some in crowded_clusters for c in some}
    totals: dict[int, int] = {}  # pairs of each split cluster
    for task, count in zip(pair_tasks, pairs, strict=True):
        if task.parts > 1:
            totals[task.start] = totals.get(task.start, 0) + count
    return sorted(found | {c for c, count in totals.items() if count > most[c]})


@dataclass(frozen=True)
class FoundPairs:
    """The near pairs that the pair tasks of one run stored."""

    files: tuple[FileRef, ...]  # records of near_pairs.PAIR
    crowded: tuple[int, ...]  # clusters with too many pairs to store, ascending; not in the files
    stored: int  # pairs in the files
    histogram: tuple[int, ...]  # of their similarities


def together(outputs: Mapping[str, PairsOutput], most: npt.NDArray[np.int64]) -> FoundPairs:
    """The result of all pair tasks. `most`: (k,) maximum number of near pairs stored per cluster.

    The files of slices of a crowded cluster are left out: all pairs of the cluster are recomputed later.
    """
    tasks = [PairTask.of(key) for key in outputs]
    found = list(outputs.values())
    too_many = crowded(tasks, [o.stored for o in found], [o.crowded for o in found], most)
    used = [o for t, o in zip(tasks, found, strict=True) if t.parts == 1 or t.start not in too_many]
    counts = np.sum([o.histogram for o in used], axis=0) if used else np.zeros(0, np.int64)
    return FoundPairs(
        files=tuple(o.pairs for o in used),
        crowded=tuple(too_many),
        stored=sum(o.stored for o in used),
        histogram=tuple(int(n) for n in counts),
    )
