"""The fewest probes that suffice, measured on a sample of the images before any cluster row is written."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from made_core.cluster import kmeans
from made_core.cluster.kmeans import Centroids
from made_core.dedup import candidates
from made_core.dedup.near_pairs import EXACT_CHUNK
from made_core.vectors import Rows, cosine

ENOUGH = 0.99  # of the near pairs must be compared
ENOUGH_OF_SAMPLE = 1 - (1 - ENOUGH) / 2  # half of what may be lost is left to chance
MOST = 8  # probes: each writes all rows once more
QUERIES = 4096  # images whose near pairs are looked for, at least
QUERIES_PER_CLUSTER = 5  # at most, while few have one: as many products as 5 iterations of k-means
LEAST = 30  # near pairs; fewer do not tell
UNKNOWN = 2  # probes where they do not
# Images with a near pair. With fewer, that every pair is compared does not show that 99 % of all are (rule of
# three: 3 / n), so at least UNKNOWN probes are taken. Pairs of one image are one trial, as in `pair_recall`.
SURE = round(3 / (1 - ENOUGH))

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Measured:
    """What the sample tells."""

    probes: int
    pairs: int  # near pairs in the sample
    recall: float | None  # share of them that `probes` compares; None: fewer than LEAST, `probes` is UNKNOWN


def choose(
    rows: Rows, centroids: Centroids, eps: float, queries: int = QUERIES, block: int = 2048
) -> Measured:
    """The fewest probes, at most MOST, with which ENOUGH_OF_SAMPLE of the near pairs are compared.

    At least UNKNOWN, where fewer than SURE images have a near pair.

    Args:
        rows: (n, dim) stored rows in random order; not those that the centroids were trained on, unless these
            are all: k-means fits them better. Pairs of the first `queries` with all are measured, and of
            more, up to QUERIES_PER_CLUSTER times k, until SURE of them have one.
        eps: pairs with a cosine above 1 - eps are near.
        block: rows compared at once.
    """
    k = len(centroids)
    if k == 1:
        return Measured(1, 0, 1.0)
    nearest = kmeans.assign(rows, centroids, min(MOST, k))
    met = np.zeros(nearest.shape[1] + 1, np.int64)  # by the fewest probes that compare a pair; last: none
    some, most = min(queries, len(rows)), min(max(queries, QUERIES_PER_CLUSTER * k), len(rows))
    paired = np.zeros(most, bool)  # images with a near pair among the later ones
    for a in [*range(0, some, block), *range(some, most, block)]:
        if a >= some and paired.sum() >= SURE:
            break
        left = candidates.prepare(rows[a : min(a + block, some if a < some else most)])
        for b in range(a, len(rows), block):
            first, second = candidates.candidates(left, candidates.prepare(rows[b : b + block]), 1 - eps)
            first, second = first + a, second + b
            once = first < second
            first, second = first[once], second[once]
            for start in range(0, len(first), EXACT_CHUNK):
                i, j = first[start : start + EXACT_CHUNK], second[start : start + EXACT_CHUNK]
                near = cosine(rows[i], rows[j]) > 1 - eps
                paired[i[near]] = True
                fewest = fewest_probes(nearest[i[near]], nearest[j[near]])
                met += np.bincount(fewest - 1, minlength=len(met))
    pairs = int(met.sum())
    if pairs < LEAST:
        return Measured(min(UNKNOWN, k), pairs, None)
    recall = np.cumsum(met[:-1]) / pairs
    enough = np.flatnonzero(recall >= ENOUGH_OF_SAMPLE)
    chosen = int(enough[0]) if len(enough) else len(recall) - 1
    if paired.sum() < SURE:
        chosen = max(chosen, UNKNOWN - 1)  # k > 1, so there are as many
    return Measured(chosen + 1, pairs, float(recall[chosen]))


def fewest_probes(left: npt.NDArray[np.int32], right: npt.NDArray[np.int32]) -> Ints:
    """(m,) the fewest probes with which images with the nearest clusters left[i], right[i] are compared.

    Each (m, p), home first; p + 1: more than p. See `pair_recall.compared`.
    """
    p = left.shape[1]
    result = np.full(len(left), p + 1, np.int64)
    for one, other in ((left, right), (right, left)):
        at_home = one == other[:, :1]
        result = np.minimum(result, np.where(at_home.any(axis=1), at_home.argmax(axis=1) + 1, p + 1))
    return result
