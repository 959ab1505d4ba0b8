"""Crowded clusters: those with too many near pairs to store. Their rows are compared while deciding.

n near-equal images have n^2 / 2 near pairs, but few of the images are kept. In the order of the rule,
each row is compared with the rows of the cluster KEPT so far. This gives the same decisions with memory
for the rows instead of the pairs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from made_core.dedup.candidates import Block, candidates, prepare, unit32
from made_core.dedup.rules import Edges, Flags, Floats, Ints
from made_core.vectors import MARGIN, Rows, cosine

STEP = 256  # rows compared at a time
KEPT_BLOCK = 4096  # kept rows per product: 4 MB of scores per step


@dataclass(frozen=True)
class CrowdedCluster:
    """The rows of a crowded cluster."""

    nodes: Ints  # (m,) the node of each row
    at_home: Flags  # (m,) whether this is the row's home; two rows are compared here if it is for one
    rows: Rows  # (m, dim) float16 stored rows
    step: int = STEP
    kept_block: int = KEPT_BLOCK

    def start(self, rank: Ints, bound: float) -> KeptRows:
        """See rules.Crowded."""
        return KeptRows(self, rank, bound)

    def edges(self, rank: Ints, pinned: Flags, bound: float) -> Edges:
        """See rules.Crowded."""
        return reference_edges(self, rank, pinned, bound)


class KeptRows:
    """The rows of a crowded cluster kept so far.

    `step` rows at a time are compared with all rows kept before them, by matrix products; those kept
    within the step are compared row by row.
    """

    def __init__(self, cluster: CrowdedCluster, rank: Ints, bound: float) -> None:
        """Args: rank: (nodes,) each node's position in the order; bound: similarities above it count."""
        self._cluster, self._bound = cluster, bound
        self._order = np.argsort(rank[cluster.nodes])  # rows, first to last
        self._position = np.argsort(self._order)  # of each row in the order
        self._end = 0  # rows at positions before it have been compared with `_kept`
        self._kept: list[int] = []  # rows kept before this step
        self._blocks: list[Block] = []  # the same rows, `kept_block` in each block but the last
        self._near: dict[int, Ints] = {}  # row of this step -> rows of `_kept` that may be near
        self._recent: list[int] = []  # rows kept in this step
        self._units = torch.empty((cluster.step, cluster.rows.shape[1]))  # unit rows of `_recent`

    def near(self, row: int) -> tuple[Ints, Floats]:
        """The kept nodes whose similarity to `row` exceeds the bound, and the similarities.

        Must be called for every row, in the order of the ranks.
        """
        cluster = self._cluster
        if self._position[row] >= self._end:
            self._advance(int(self._position[row]))
        score = (self._units[: len(self._recent)] @ unit32(cluster.rows[row : row + 1])[0]).numpy()
        recent = np.array(self._recent, np.int64)[score > self._bound - MARGIN]
        others = np.concatenate([self._near.get(row, recent[:0]), recent])
        others = others[cluster.at_home[others] | cluster.at_home[row]]
        value = cosine(cluster.rows[others], np.repeat(cluster.rows[row : row + 1], len(others), 0))
        return cluster.nodes[others[value > self._bound]], value[value > self._bound]

    def keep(self, row: int) -> None:
        """Adds `row`."""
        self._units[len(self._recent)] = unit32(self._cluster.rows[row : row + 1])[0]
        self._recent.append(row)

    def _advance(self, position: int) -> None:
        """Starts the next `step` rows: compares them with all rows kept so far."""
        block = self._cluster.kept_block
        del self._blocks[len(self._kept) // block :]  # the last one, if it was not full
        self._kept += self._recent
        self._recent.clear()
        for start in range(len(self._blocks) * block, len(self._kept), block):
            self._blocks.append(prepare(self._cluster.rows[self._kept[start : start + block]]))
        self._end = position + self._cluster.step
        step = self._order[position : self._end]
        left = prepare(self._cluster.rows[step])
        found = [np.zeros((0, 2), np.int64)]
        for number, kept_rows in enumerate(self._blocks):
            first, second = candidates(left, kept_rows, self._bound)
            found.append(np.stack([first, second + number * block], axis=1))
        pairs = np.concatenate(found)
        pairs = pairs[np.argsort(pairs[:, 0], kind="stable")]
        rows, starts = np.unique(pairs[:, 0], return_index=True)
        kept = np.array(self._kept, np.int64)[pairs[:, 1]]
        self._near = dict(zip(step[rows].tolist(), np.split(kept, starts[1:]), strict=False))


def reference_edges(
    cluster: CrowdedCluster, rank: Ints, pinned: Flags, bound: float, block: int = 2048
) -> Edges:
    """Pairs that give the same decisions under the reference rule as all near pairs of the cluster.

    For each row at home that has an earlier near row: the nearest of these, and the nearest of the kept
    ones among these. A row is kept if it has no earlier near row, or if it is in `pinned` (nodes,).

    Which row is nearest is decided by the float32 product; whether there is one, by the float64 product.
    """
    home = np.flatnonzero(cluster.at_home)
    home = home[np.argsort(rank[cluster.nodes[home]])]
    nodes, rows = cluster.nodes[home], cluster.rows[home]
    every = np.ones(len(home), bool)
    nearest = _nearest_earlier(rows, every, bound, block)
    nearest_kept = _nearest_earlier(rows, (nearest < 0) | pinned[nodes], bound, block)
    edges = []
    for found in (nearest, nearest_kept):
        later = np.flatnonzero(found >= 0)
        earlier = found[later]
        edges.append((nodes[earlier], nodes[later], _cosines(rows, earlier, later, block)))
    earlier, later, value = (np.concatenate(side) for side in zip(*edges, strict=True))
    return earlier, later, value


def _nearest_earlier(rows: Rows, use: Flags, bound: float, block: int) -> Ints:
    """(n,) for each row the nearest earlier row in `use` above the bound, or -1."""
    n = len(rows)
    best = np.full(n, -np.inf, np.float32)
    found = np.full(n, -1, np.int64)
    for a in range(0, n, block):
        left = unit32(rows[a : a + block])
        for b in range(0, a + 1, block):
            score = left @ unit32(rows[b : b + block]).T
            score[:, torch.from_numpy(~use[b : b + block])] = -np.inf
            if a == b:
                score[torch.ones_like(score, dtype=torch.bool).triu()] = -np.inf
            top = score.max(dim=1)
            better = top.values.numpy() > best[a : a + block]
            best[a : a + block][better] = top.values.numpy()[better]
            found[a : a + block][better] = top.indices.numpy()[better] + b
    found[best <= bound - MARGIN] = -1
    for row in np.flatnonzero(np.abs(best - bound) <= MARGIN).tolist():
        earlier = np.flatnonzero(use[:row])
        value = _cosines(rows, earlier, np.full(len(earlier), row), block)
        found[row] = earlier[np.argmax(value)] if value.max() > bound else -1
    return found


def _cosines(rows: Rows, left: Ints, right: Ints, block: int) -> Floats:
    """(n,) float64 cosines of the rows left[i] and right[i]; only `block` of them are widened at a time."""
    result = np.empty(len(left))
    for start in range(0, len(left), block):
        some = slice(start, start + block)
        result[some] = cosine(rows[left[some]], rows[right[some]])
    return result
