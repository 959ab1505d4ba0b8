"""Clusters with too many near pairs to store: their rows are compared as the samples are walked.

n near-equal images have n^2 / 2 near pairs, but few of them are kept. So the walk compares a row
with the KEPT rows of the cluster so far: the same decisions, memory for the rows and not the pairs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from made_core.dedup.candidates import Block, candidates, prepare, unit32
from made_core.dedup.rules import Edges, Flags, Floats, Ints
from made_core.vectors import MARGIN, Rows, cosine

STEP = 256  # rows of the walk that are compared at a time
KEPT_BLOCK = 4096  # kept rows of a product: 4 MB of scores a step


@dataclass(frozen=True)
class CrowdedCluster:
    """A cluster that is compared as the walk goes."""

    nodes: Ints  # (m,) the node of each row
    at_home: Flags  # (m,) two rows are compared here if one of them is at home
    rows: Rows  # (m, dim) float16 stored rows
    step: int = STEP
    kept_block: int = KEPT_BLOCK

    def walk(self, rank: Ints, bound: float) -> Walk:
        """See rules.Crowd."""
        return Walk(self, rank, bound)

    def edges(self, rank: Ints, stays: Flags, bound: float) -> Edges:
        """See rules.Crowd."""
        return reference_edges(self, rank, stays, bound)


class Walk:
    """The kept rows of a dense cluster, as far as the walk has come.

    `step` rows of the walk at a time are compared with all that were kept before them, by matrix
    products; what is kept among them is compared row by row.
    """

    def __init__(self, dense: CrowdedCluster, rank: Ints, bound: float) -> None:
        """Args: rank: (nodes,) the order of the walk; bound: similarities count above it."""
        self._dense, self._bound = dense, bound
        self._order = np.argsort(rank[dense.nodes])  # places, first to last
        self._turn = np.argsort(self._order)
        self._end = 0  # turns before it have been compared with `_kept`
        self._kept: list[int] = []  # places of the rows kept before this step
        self._blocks: list[Block] = []  # the same rows, `kept_block` in each but the last
        self._near: dict[int, Ints] = {}  # place of this step -> places of `_kept` that may be near
        self._recent: list[int] = []  # places of the rows kept in this step
        self._units = torch.empty((dense.step, dense.rows.shape[1]))  # their rows

    def near(self, place: int) -> tuple[Ints, Floats]:
        """The kept nodes whose similarity to row `place` exceeds the bound, and the similarities.

        Places are asked for in the order of the walk, every one.
        """
        dense = self._dense
        if self._turn[place] >= self._end:
            self._advance(int(self._turn[place]))
        score = (self._units[: len(self._recent)] @ unit32(dense.rows[place : place + 1])[0]).numpy()
        recent = np.array(self._recent, np.int64)[score > self._bound - MARGIN]
        places = np.concatenate([self._near.get(place, recent[:0]), recent])
        places = places[dense.at_home[places] | dense.at_home[place]]
        value = cosine(dense.rows[places], np.repeat(dense.rows[place : place + 1], len(places), 0))
        return dense.nodes[places[value > self._bound]], value[value > self._bound]

    def keep(self, place: int) -> None:
        """Takes row `place` in."""
        self._units[len(self._recent)] = unit32(self._dense.rows[place : place + 1])[0]
        self._recent.append(place)

    def _advance(self, turn: int) -> None:
        """Begins the next `step` rows: what was kept so far is compared with all of them."""
        block = self._dense.kept_block
        del self._blocks[len(self._kept) // block :]  # the last one, which was not full
        self._kept += self._recent
        self._recent.clear()
        for start in range(len(self._blocks) * block, len(self._kept), block):
            self._blocks.append(prepare(self._dense.rows[self._kept[start : start + block]]))
        self._end = turn + self._dense.step
        step = self._order[turn : self._end]
        left = prepare(self._dense.rows[step])
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
    dense: CrowdedCluster, rank: Ints, stays: Flags, bound: float, block: int = 2048
) -> Edges:
    """For each row at home with an earlier near one: the nearest of those, and the nearest of those
    that are kept: they have none themselves, or `stays` (nodes,) says so. These decide as all pairs would.

    Nearest is by the float32 product here; whether there is one, by the float64 product.
    """
    home = np.flatnonzero(dense.at_home)
    home = home[np.argsort(rank[dense.nodes[home]])]
    nodes, rows = dense.nodes[home], dense.rows[home]
    every = np.ones(len(home), bool)
    nearest = _nearest_earlier(rows, every, bound, block)
    chief = _nearest_earlier(rows, (nearest < 0) | stays[nodes], bound, block)
    edges = []
    for found in (nearest, chief):
        later = np.flatnonzero(found >= 0)
        earlier = found[later]
        edges.append((nodes[earlier], nodes[later], cosine(rows[earlier], rows[later])))
    earlier, later, value = (np.concatenate(side) for side in zip(*edges, strict=True))
    return earlier, later, value


def _nearest_earlier(rows: Rows, use: Flags, bound: float, block: int) -> Ints:
    """(n,) for each row the nearest earlier one among `use` above the bound, or -1."""
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
        value = cosine(rows[earlier], np.repeat(rows[row : row + 1], len(earlier), 0))
        found[row] = earlier[np.argmax(value)] if value.max() > bound else -1
    return found
