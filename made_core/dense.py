"""Clusters with too many near pairs to store: their rows are compared as the samples are walked.

n near-equal pictures have n^2 / 2 near pairs, but few of them are kept. So the walk compares a row
with the KEPT rows of the cluster so far: the same decisions, memory for the rows and not the pairs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from made_core.embeddings import Rows
from made_core.pairs import similarity
from made_core.products import MARGIN, unit32

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Edges = tuple[Ints, Ints, Floats]  # (earlier nodes, later nodes, similarities above the bound)


@dataclass(frozen=True)
class Dense:
    """A cluster that is compared as the walk goes."""

    nodes: Ints  # (m,) the node of each row
    at_home: npt.NDArray[np.bool_]  # (m,) two rows are compared here if one of them is at home
    rows: Rows  # (m, dim) float16 stored rows


class Field:
    """The kept rows of a dense cluster, as far as the walk has come."""

    def __init__(self, dense: Dense) -> None:
        self._dense = dense
        self._kept = torch.empty((64, dense.rows.shape[1]))
        self._places: list[int] = []  # of the kept rows

    def near(self, place: int, bound: float) -> tuple[Ints, Floats]:
        """The kept nodes whose similarity to row `place` exceeds `bound`, and the similarities."""
        dense, count = self._dense, len(self._places)
        score = (self._kept[:count] @ unit32(dense.rows[place : place + 1])[0]).numpy()
        close = np.flatnonzero(score > bound - MARGIN)
        places = np.array(self._places, np.int64)[close]
        places = places[dense.at_home[places] | dense.at_home[place]]
        value = similarity(dense.rows[places], np.repeat(dense.rows[place : place + 1], len(places), 0))
        return dense.nodes[places[value > bound]], value[value > bound]

    def keep(self, place: int) -> None:
        """Takes row `place` in."""
        count = len(self._places)
        if count == len(self._kept):
            self._kept = torch.cat([self._kept, torch.empty_like(self._kept)])
        self._kept[count] = unit32(self._dense.rows[place : place + 1])[0]
        self._places.append(place)


def reference_edges(dense: Dense, rank: Ints, bound: float, block: int = 2048) -> Edges:
    """For each row at home with an earlier near one: the nearest of those, and the nearest of those
    that have none themselves. These decide as all pairs would.

    Nearest is by the float32 product here; whether there is one, by the float64 product.
    """
    home = np.flatnonzero(dense.at_home)
    home = home[np.argsort(rank[dense.nodes[home]])]
    nodes, rows = dense.nodes[home], dense.rows[home]
    every = np.ones(len(home), bool)
    nearest = _nearest_earlier(rows, every, bound, block)
    chief = _nearest_earlier(rows, nearest < 0, bound, block)
    edges = []
    for found in (nearest, chief):
        later = np.flatnonzero(found >= 0)
        earlier = found[later]
        edges.append((nodes[earlier], nodes[later], similarity(rows[earlier], rows[later])))
    earlier, later, value = (np.concatenate(side) for side in zip(*edges, strict=True))
    return earlier, later, value


def _nearest_earlier(rows: Rows, use: npt.NDArray[np.bool_], bound: float, block: int) -> Ints:
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
        value = similarity(rows[earlier], np.repeat(rows[row : row + 1], len(earlier), 0))
        found[row] = earlier[np.argmax(value)] if value.max() > bound else -1
    return found
