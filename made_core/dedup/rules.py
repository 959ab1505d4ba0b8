"""The dedup rules: near pairs and an order -> which samples are kept, and which represent the others.

Let `bound` = 1 - eps. Samples are processed in a total order.

reference (SemDeDup, Abbas et al. 2023, arXiv:2303.09540): in each cluster, sample j is removed iff
    max over EARLIER i of <x_i, x_j>  >  bound          (i may be removed itself)
cover: in the whole data set, j is removed iff a KEPT earlier i has <x_i, x_j> > bound. The kept samples
    are the lexicographically first maximal independent set of the near-pair graph, so every removed
    sample has a kept one within eps, which the reference rule does not guarantee.
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
ROUND = 16  # a round over all pairs pays while it settles a sixteenth of them


class KeptRows(Protocol):
    """The rows of a crowded cluster kept so far, while its rows are processed in order."""

    def near(self, row: int) -> tuple[Ints, Floats]:
        """The kept nodes near `row`, and their similarities to it."""

    def keep(self, row: int) -> None:
        """Adds `row`."""


class Crowded(Protocol):
    """A cluster with too many near pairs to store: its rows are compared here (see crowded.py)."""

    @property
    def nodes(self) -> Ints:
        """(m,) the node of each row."""

    def start(self, rank: Ints, bound: float) -> KeptRows:
        """The kept rows, none yet; `near` and `keep` are then called in the order of `rank`."""

    def edges(self, rank: Ints, pinned: Flags, bound: float) -> Edges:
        """Pairs that give the same decisions under the reference rule as all pairs above `bound`."""


@dataclass(frozen=True)
class Resolved:
    """The outcome for n nodes."""

    representative: Ints  # (n,) the kept node that represents each; a kept node represents itself
    similarity: Floats  # (n,) of each removed node and that one; NaN: kept, or they are no near pair

    @property
    def kept(self) -> npt.NDArray[np.bool_]:
        """(n,) whether each node is kept."""
        result: npt.NDArray[np.bool_] = self.representative == np.arange(len(self.representative))
        return result


def cover(
    rank: Ints,
    i: Ints,
    j: Ints,
    similarity: Floats,
    bound: float,
    crowded: Sequence[Crowded] = (),
    pinned: Flags | None = None,
) -> Resolved:
    """The cover rule.

    Args:
        rank: (n,) each node's position in the total order, all different.
        i, j, similarity: (m,) near pairs, each once, with i and j in either order.
        bound: pairs with a similarity above it count.
        crowded: clusters whose pairs are not in these.
        pinned: (n,) nodes that an earlier run kept: they are never removed. None: no nodes.
    """
    settled = np.zeros(len(rank), bool) if pinned is None else pinned
    earlier, later, value = _directed(rank, i, j, similarity, bound)
    crowded_rows = _crowded_rows(crowded)
    kept, open_ = np.ones(len(rank), bool), np.zeros(len(rank), bool)
    open_[later[~settled[later]]] = True
    open_[list(crowded_rows)] = True
    left = _rounds(kept, open_, earlier, later, np.array(list(crowded_rows), np.int64))
    edges = np.flatnonzero(np.diff(later[left], prepend=-1, append=-1))  # bounds of each later node's pairs
    slices = {int(later[left[start]]): (start, stop) for start, stop in pairwise(edges.tolist())}
    kept_rows = [c.start(rank, bound) for c in crowded]
    more: list[Edges] = [(earlier, later, value)]
    for node in sorted(slices.keys() | crowded_rows.keys(), key=rank.__getitem__):
        start, stop = slices.get(node, (0, 0))
        kept[node] = settled[node] or not kept[earlier[left[start:stop]]].any()
        for number, row in crowded_rows.get(node, ()):
            others, close = kept_rows[number].near(row)
            if len(others) and not settled[node]:
                kept[node] = False
                more.append((others, np.full(len(others), node), close))
        if kept[node]:
            for number, row in crowded_rows.get(node, ()):
                kept_rows[number].keep(row)
    earlier, later, value = (np.concatenate(side) for side in zip(*more, strict=True))
    removed = ~kept[later]
    return Resolved(*_nearest_kept(rank, kept, earlier[removed], later[removed], value[removed]))


def reference(
    rank: Ints,
    cluster: Ints,
    i: Ints,
    j: Ints,
    similarity: Floats,
    bound: float,
    crowded: Sequence[Crowded] = (),
    pinned: Flags | None = None,
) -> Resolved:
    """SemDeDup's rule. `cluster`: (n,) home cluster of each node; see `cover` for the other arguments.

    A removed node is represented by its nearest kept earlier neighbour; if all of these are removed, by
    the representative of the nearest of them.
    """
    settled = np.zeros(len(rank), bool) if pinned is None else pinned
    same = cluster[i] == cluster[j]
    edges = [_directed(rank, i[same], j[same], similarity[same], bound)]
    edges += [c.edges(rank, settled, bound) for c in crowded]
    earlier, later, value = (np.concatenate(side) for side in zip(*edges, strict=True))
    free = ~settled[later]
    earlier, later, value = earlier[free], later[free], value[free]
    kept = np.ones(len(rank), bool)
    kept[later] = False
    direct, similarities = _nearest_kept(rank, kept, earlier, later, value)
    chain, _ = _nearest_kept(rank, np.ones(len(rank), bool), earlier, later, value)
    without = ~kept & (direct == np.arange(len(rank)))  # removed nodes without a kept neighbour
    parent = np.where(without, chain, direct)
    while not kept[parent].all():  # terminates: each step goes to an earlier node
        parent = np.where(kept[parent], parent, parent[parent])
    return Resolved(parent, similarities)


def _rounds(kept: Flags, open_: Flags, earlier: Ints, later: Ints, crowded: Ints) -> Ints:
    """Decides nodes of the cover rule by rounds over all pairs, while a round decides many of them.

    In a round the open nodes with an earlier kept node that is not open are removed, then those whose earlier
    nodes are all removed are kept. Chains of nodes take a round each: they are left to the caller.

    Args:
        kept, open_: (n,) flags, which change: a node that is not open is decided. earlier, later: (m,) nodes.
        crowded: nodes that only the caller can decide.

    Returns:
        The positions of the pairs that the open nodes still depend on, ascending.
    """
    left = np.flatnonzero(open_[later])
    ours = open_.copy()
    ours[crowded] = False
    while True:
        first, second = earlier[left], later[left]
        removed = second[ours[second] & kept[first] & ~open_[first]]
        kept[removed] = open_[removed] = False
        waits = open_[second] & kept[first]  # a removed node removes none
        waiting = np.zeros(len(kept), bool)
        waiting[second[waits]] = True
        free = second[~waiting[second] & open_[second] & ours[second]]
        open_[free] = False
        before, left = len(left), left[waits]
        if before - len(left) <= before // ROUND:
            return left


def _crowded_rows(crowded: Sequence[Crowded]) -> dict[int, list[tuple[int, int]]]:
    """For each node in crowded clusters: (number of the cluster, row in it)."""
    rows: dict[int, list[tuple[int, int]]] = {}
    for number, cluster in enumerate(crowded):
        for row, node in enumerate(cluster.nodes.tolist()):
            rows.setdefault(node, []).append((number, row))
    return rows


def _directed(rank: Ints, i: Ints, j: Ints, similarity: Floats, bound: float) -> tuple[Ints, Ints, Floats]:
    """The pairs above the bound as (earlier, later, similarity), sorted by the rank of the later node."""
    near = similarity > bound
    i, j, value = i[near], j[near], similarity[near]
    swap = rank[i] > rank[j]
    earlier, later = np.where(swap, j, i), np.where(swap, i, j)
    order = np.argsort(rank[later], kind="stable")
    return earlier[order], later[order], value[order]


def _nearest_kept(
    rank: Ints, kept: npt.NDArray[np.bool_], earlier: Ints, later: Ints, value: Floats
) -> tuple[Ints, Floats]:
    """Each later node's most similar earlier neighbour in `kept`, ties by rank; itself without one.

    Returns:
        (n,) nodes; (n,) their similarities, NaN without a neighbour.
    """
    result, similarity = np.arange(len(rank)), np.full(len(rank), np.nan)
    use = kept[earlier]
    earlier, later, value = earlier[use], later[use], value[use]
    order = np.lexsort((rank[earlier], -value, later))
    first = np.flatnonzero(np.diff(later[order], prepend=-1))
    result[later[order][first]] = earlier[order][first]
    similarity[later[order][first]] = value[order][first]
    return result, similarity
