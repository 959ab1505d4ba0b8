"""A brute-force oracle, written from the formulas alone: full matrices, plain loops, no made_core.

x_i = v_i / |v_i|                    of the stored float16 row v_i, in float64
home(i) = argmax_c <x_i, mu_c>       ties: the lower cluster;  probes(i) = the best p of them
d_i = 1 - <x_i, mu_home(i)>
i, j are compared iff home(i) in probes(j) or home(j) in probes(i)
reference: j is removed iff max over earlier i with home(i) = home(j) of <x_i, x_j> > 1 - eps
cover:     j is removed iff some KEPT earlier i compared with j has <x_i, x_j> > 1 - eps
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Matrix = npt.NDArray[np.float64]
Compared = npt.NDArray[np.bool_]

SAME = 1e-12  # similarities closer than this are ties in the choice of representatives


@dataclass(frozen=True)
class Outcome:
    """The expected outcome of each sample."""

    reason: list[str | None]  # None: kept
    representatives: list[set[int]]  # allowed representatives; of a kept sample: itself; empty: none

    @property
    def kept(self) -> list[bool]:
        """The kept samples."""
        return [reason is None for reason in self.reason]


def unit(rows: npt.NDArray[Any]) -> Matrix:
    """x_i."""
    wide = np.asarray(rows).astype(np.float64)
    return np.array([v / np.sqrt((v * v).sum()) for v in wide]).reshape(wide.shape)


def products(left: Matrix, right: Matrix) -> Matrix:
    """(n, m) float64 products, each summed separately, so that equal rows have equal products."""
    return np.array([(row * right).sum(axis=1) for row in left]).reshape(len(left), len(right))


def nearest(rows: npt.NDArray[Any], centroids: npt.NDArray[Any], probes: int) -> list[list[int]]:
    """probes(i), home first."""
    score = products(unit(rows), unit(centroids))
    return [sorted(range(len(s)), key=lambda c: (-s[c], c))[:probes] for s in score]


def distances(rows: npt.NDArray[Any], centroids: npt.NDArray[Any]) -> list[float]:
    """d_i; values equal to twelve decimals are ties."""
    score = products(unit(rows), unit(centroids))
    return [round(1 - max(s), 12) for s in score]


def compared(probes: Sequence[Sequence[int]]) -> Compared:
    """(n, n) whether two samples are compared."""
    n = len(probes)
    result = np.zeros((n, n), bool)
    for i in range(n):
        for j in range(n):
            result[i, j] = i != j and (probes[i][0] in probes[j] or probes[j][0] in probes[i])
    return result


def pairs(rows: npt.NDArray[Any], probes: Sequence[Sequence[int]], bound: float) -> set[tuple[int, int]]:
    """All compared i < j above the bound."""
    x = unit(rows)
    score, may = products(x, x), compared(probes)
    n = len(rows)
    return {(i, j) for i in range(n) for j in range(i + 1, n) if may[i, j] and score[i, j] > bound}


def cover(
    score: Matrix, may: Compared, walk: Sequence[int], bound: float, stays: int = 0
) -> dict[int, set[int]]:
    """The cover rule over the nodes in `walk`, first to last: node -> allowed representatives.

    The first `stays` of them are always kept.
    """
    kept: list[int] = []
    result: dict[int, set[int]] = {}
    for place, j in enumerate(walk):
        above = {i for i in kept if place >= stays and may[i, j] and score[i, j] > bound}
        if not above:
            kept.append(j)
        result[j] = above or {j}
    return result


def reference(
    score: Matrix, homes: Sequence[int], walk: Sequence[int], bound: float, stays: int = 0
) -> dict[int, set[int]]:
    """The reference rule: node -> allowed representatives; the first `stays` are always kept.

    That is the nearest kept earlier node; if there is none, those of the nearest earlier node.
    """
    result: dict[int, set[int]] = {}
    for place, j in enumerate(walk):
        above = [i for i in walk[:place] if homes[i] == homes[j] and score[i, j] > bound]
        if not above or place < stays:
            result[j] = {j}
            continue
        stand = [i for i in above if result[i] == {i}]
        best = max(score[i, j] for i in stand or above)
        result[j] = set().union(*(result[i] for i in stand or above if score[i, j] >= best - SAME))
    return result


def canonicals(
    images: Sequence[object], uids: Sequence[str], readable: Sequence[bool], cuts: Sequence[int] = ()
) -> list[int]:
    """The sample whose row is the image's vector: the readable one with the lowest uid, then gid.

    With `cuts`, where generations end: of the first generation that has the image.
    """
    n = len(uids)
    ages = [sum(i >= cut for cut in cuts) for i in range(n)]
    result = list(range(n))
    for i in result[:]:
        same = [m for m in range(len(uids)) if images[m] == images[i] and readable[m]]
        if readable[i]:
            result[i] = min(same, key=lambda m: (ages[m], uids[m].encode(), m))
    return result


def decide(
    rows: npt.NDArray[np.float16],
    images: Sequence[object],
    uids: Sequence[str],
    readable: Sequence[bool],
    filtered: Sequence[str | None],
    probes: Sequence[Sequence[int]],
    values: Sequence[float],
    eps: float,
    rule: str,
    earlier: Outcome | None = None,
    cuts: Sequence[int] = (),
) -> Outcome:
    """Every sample's outcome; samples are in gid order.

    Args:
        images: equal for equal image bytes. filtered: the filter's reason, or None.
        probes: nearest clusters of each row, home first; like the row, only a first's count.
        values: of the keep rule for each sample, lowest first.
        earlier: fixed outcomes of the first samples. cuts: where generations end.
    """
    n, before = len(rows), len(earlier.reason) if earlier else 0
    reason: list[str | None] = [None] * n
    representatives: list[set[int]] = [set() for _ in range(n)]
    first = canonicals(images, uids, readable, cuts)

    # Unreadable, filtered and repeated-uid samples are removed and represent no sample.
    original = list(range(n))
    for i in range(n):
        same = [m for m in range(i) if readable[m] and uids[m] == uids[i]]
        if not readable[i]:
            reason[i] = "unreadable"
        elif same:
            reason[i], original[i] = "repeated_uid", same[0]
        else:
            reason[i] = filtered[i]
        if earlier and i < before:
            reason[i], representatives[i] = earlier.reason[i], earlier.representatives[i]

    # Of equal images, the first in the total order stays.
    order = sorted(range(n), key=lambda i: (i >= before, values[i], uids[i].encode(), i))
    survivor: dict[int, int] = {}
    for i in order:
        if reason[i] is None:
            survivor.setdefault(first[i], i)
    walk = [i for i in order if survivor.get(first[i]) == i]

    # Near duplicates among the remaining samples, by the vectors of their images.
    x = unit(rows[[first[i] for i in walk]])
    seen = [probes[first[i]] for i in walk]
    places, stays = range(len(walk)), sum(i < before for i in walk)
    if rule == "cover":
        nodes = cover(products(x, x), compared(seen), places, 1 - eps, stays)
    else:
        nodes = reference(products(x, x), [p[0] for p in seen], places, 1 - eps, stays)
    result = {walk[node]: {walk[m] for m in who} for node, who in nodes.items()}

    for i in range(before, n):
        if reason[i] is None:
            standing = survivor[first[i]]
            representatives[i] = result[standing]
            if standing != i:
                reason[i] = "exact_copy"
            elif result[i] != {i}:
                reason[i] = "near_duplicate"
    for i in range(before, n):
        if reason[i] == "repeated_uid":
            representatives[i] = representatives[original[i]]
    return Outcome(reason, representatives)
