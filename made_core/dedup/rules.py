"""Pairs + an order + a rule -> who stays, and who stands for whom. Pure; read it beside the paper.

Let `bound` = 1 - eps and let samples be walked in one total order.

reference (SemDeDup, Abbas et al. 2023, arXiv:2303.09540): in each cluster, sample j is removed iff
    max over EARLIER i of <x_i, x_j>  >  bound          (i may be removed itself)
cover: over the whole data set, j is removed iff some KEPT earlier i has <x_i, x_j> > bound: the
    lexicographically first maximal independent set of the near-pair graph. So every removed
    sample has a kept one within eps, which the reference does not promise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
Edges = tuple[Ints, Ints, Floats]  # (earlier nodes, later nodes, similarities above the bound)


class KeptRows(Protocol):
    """The kept rows of a crowded cluster, as far as the walk has come."""

    def near(self, place: int) -> tuple[Ints, Floats]:
        """The kept nodes near to the row at `place`, and their similarities."""

    def keep(self, place: int) -> None:
        """Adds the row at `place`."""


class Crowd(Protocol):
    """A cluster with too many near pairs to list: it is compared during the walk (see crowded.py)."""

    @property
    def nodes(self) -> Ints:
        """(m,) the node of each row."""

    def walk(self, rank: Ints, bound: float) -> KeptRows:
        """Nothing is kept yet; rows are then asked for in the order of `rank`."""

    def edges(self, rank: Ints, stays: Flags, bound: float) -> Edges:
        """The pairs that decide as all pairs above `bound` would, under the reference rule."""


@dataclass(frozen=True)
class Resolved:
    """The outcome for n nodes."""

    representative: Ints  # (n,) the kept node that stands for each; a kept node's is itself

    @property
    def kept(self) -> npt.NDArray[np.bool_]:
        """(n,) who stays."""
        result: npt.NDArray[np.bool_] = self.representative == np.arange(len(self.representative))
        return result


def cover(
    rank: Ints,
    i: Ints,
    j: Ints,
    similarity: Floats,
    bound: float,
    crowds: Sequence[Crowd] = (),
    stays: Flags | None = None,
) -> Resolved:
    """The cover rule.

    Args:
        rank: (n,) each node's place in the total order, all different.
        i, j, similarity: (m,) near pairs, each once, either way round.
        bound: pairs count above it.
        crowds: clusters whose pairs are not among these.
        stays: (n,) those that an earlier run kept: they are never removed. None: nobody is.
    """
    settled = np.zeros(len(rank), bool) if stays is None else stays
    earlier, later, value = _directed(rank, i, j, similarity, bound)
    kept = np.ones(len(rank), bool)
    edges = np.flatnonzero(np.diff(later, prepend=-1, append=-1))  # of each later node's slice
    slices = {int(later[start]): (start, stop) for start, stop in pairwise(edges.tolist())}
    places = _places(crowds)
    walks = [c.walk(rank, bound) for c in crowds]
    more: list[Edges] = [(earlier, later, value)]
    for node in sorted(slices.keys() | places.keys(), key=rank.__getitem__):
        start, stop = slices.get(node, (0, 0))
        kept[node] = settled[node] or not kept[earlier[start:stop]].any()
        for number, place in places.get(node, ()):
            others, close = walks[number].near(place)
            if len(others) and not settled[node]:
                kept[node] = False
                more.append((others, np.full(len(others), node), close))
        if kept[node]:
            for number, place in places.get(node, ()):
                walks[number].keep(place)
    earlier, later, value = (np.concatenate(side) for side in zip(*more, strict=True))
    removed = ~kept[later]
    return Resolved(_nearest_kept(rank, kept, earlier[removed], later[removed], value[removed]))


def reference(
    rank: Ints,
    cluster: Ints,
    i: Ints,
    j: Ints,
    similarity: Floats,
    bound: float,
    crowds: Sequence[Crowd] = (),
    stays: Flags | None = None,
) -> Resolved:
    """SemDeDup's rule; `cluster` (n,) is each node's own. See `cover` for the others.

    A removed node is represented by its nearest kept earlier neighbour; where all of those are
    removed themselves, by whoever stands for the nearest of them.
    """
    settled = np.zeros(len(rank), bool) if stays is None else stays
    same = cluster[i] == cluster[j]
    edges = [_directed(rank, i[same], j[same], similarity[same], bound)]
    edges += [c.edges(rank, settled, bound) for c in crowds]
    earlier, later, value = (np.concatenate(side) for side in zip(*edges, strict=True))
    free = ~settled[later]
    earlier, later, value = earlier[free], later[free], value[free]
    kept = np.ones(len(rank), bool)
    kept[later] = False
    direct = _nearest_kept(rank, kept, earlier, later, value)
    chain = _nearest_kept(rank, np.ones(len(rank), bool), earlier, later, value)
    nobody = ~kept & (direct == np.arange(len(rank)))
    parent = np.where(nobody, chain, direct)
    while not kept[parent].all():  # each step goes to an earlier node: it ends
        parent = np.where(kept[parent], parent, parent[parent])
    return Resolved(parent)


def _places(crowds: Sequence[Crowd]) -> dict[int, list[tuple[int, int]]]:
    """Of each node in a crowded cluster: (number of the cluster, place among its rows)."""
    places: dict[int, list[tuple[int, int]]] = {}
    for number, cluster in enumerate(crowds):
        for place, node in enumerate(cluster.nodes.tolist()):
            places.setdefault(node, []).append((number, place))
    return places


def _directed(rank: Ints, i: Ints, j: Ints, similarity: Floats, bound: float) -> tuple[Ints, Ints, Floats]:
    """The pairs above the bound as (earlier, later, similarity), by the rank of the later."""
    near = similarity > bound
    i, j, value = i[near], j[near], similarity[near]
    swap = rank[i] > rank[j]
    earlier, later = np.where(swap, j, i), np.where(swap, i, j)
    order = np.argsort(rank[later], kind="stable")
    return earlier[order], later[order], value[order]


def _nearest_kept(rank: Ints, kept: npt.NDArray[np.bool_], earlier: Ints, later: Ints, value: Floats) -> Ints:
    """(n,) each later node's most similar earlier neighbour among `kept`, ties by rank, or itself."""
    result = np.arange(len(rank))
    use = kept[earlier]
    earlier, later, value = earlier[use], later[use], value[use]
    order = np.lexsort((rank[earlier], -value, later))
    first = np.flatnonzero(np.diff(later[order], prepend=-1))
    result[later[order][first]] = earlier[order][first]
    return result
