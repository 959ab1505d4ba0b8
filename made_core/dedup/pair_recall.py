"""The recall of the pairs: which share of the near pairs was compared at all, from a sample.

k-means parts duplicates: a pair (i, j) is compared iff home(i) is among probes(j) or home(j) among
probes(i). Here n of the N images are drawn at random (by uid hash) and compared with ALL others:

    d_i = others with similarity > 1 - eps to image i,  f_i = those of them it was compared with
    recall = sum of f_i over all images / sum of d_i    (each pair once from either side)

The sample's r = sum f / sum d is a ratio estimator with the images as sampling units; pairs of one
image are never taken as independent. `estimate` says how far r may be off.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from made_core.corpus.corpus import Gids
from made_core.dedup.near_pairs import EXACT_CHUNK
from made_core.errors import DamagedFile
from made_core.io.arrays import read_array
from made_core.stages import AssignOutput
from made_core.vectors import Rows, cosine

SEEDS = 1 << 32  # added to the audit's seed: its draw differs from k-means' training sample
CONFIDENCE = 0.95

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Images:
    """Some images with what decides who is compared with whom."""

    gids: Gids  # (n,) ascending
    rows: Rows  # (n, dim) float16, as stored
    probes: npt.NDArray[np.int32]  # (n, p), home first


@dataclass(frozen=True)
class Recall:
    """What a sample tells. Pairs count from the sampled side: twice where both were drawn."""

    queries: int  # images drawn; 0: all pairs were compared by construction
    with_duplicates: int  # those that have any
    pairs: int  # sum of d
    found: int  # sum of f
    estimate: float | None  # None: no duplicates among the drawn, nothing to tell
    low: float | None  # of the 95 % interval; equal to `high` where all images were drawn
    high: float | None


WHOLE = Recall(0, 0, 0, 0, 1.0, 1.0, 1.0)  # each image probes every cluster


def count(queries: Images, others: Images, bound: float, block: int) -> Ints:
    """(q, 2) int64: each query's d and f among `others`, itself left out.

    Fast products of (block, block) rows find candidates, float64 ones of the stored rows decide, as in
    `pairs.near`; memory is a few blocks, whatever the numbers.
    """
    from made_core.dedup import candidates  # here: it imports torch, which a flow does not need

    counts = np.zeros((len(queries.gids), 2), np.int64)
    for a in range(0, len(queries.gids), block):
        left = candidates.prepare(queries.rows[a : a + block])
        for b in range(0, len(others.gids), block):
            right = candidates.prepare(others.rows[b : b + block])
            first, second = candidates.candidates(left, right, bound)
            for start in range(0, len(first), EXACT_CHUNK):
                i = first[start : start + EXACT_CHUNK] + a
                j = second[start : start + EXACT_CHUNK] + b
                near = cosine(queries.rows[i], others.rows[j]) > bound
                near &= queries.gids[i] != others.gids[j]
                i, j = i[near], j[near]
                met = compared(queries.probes[i], others.probes[j])
                counts[:, 0] += np.bincount(i, minlength=len(counts))
                counts[:, 1] += np.bincount(i[met], minlength=len(counts))
    return counts


def compared(left: npt.NDArray[np.int32], right: npt.NDArray[np.int32]) -> npt.NDArray[np.bool_]:
    """(n,) whether images with probes left[i], right[i] (each (n, p), home first) are compared."""
    result: npt.NDArray[np.bool_] = (left == right[:, :1]).any(axis=1) | (right == left[:, :1]).any(axis=1)
    return result


def probes_of(batches: Sequence[AssignOutput], gids: Gids) -> npt.NDArray[np.int32]:
    """(n, p) the stored clusters of images by ascending gid, home first. Raises DamagedFile."""
    result: npt.NDArray[np.int32] | None = None
    for batch in batches:
        members = read_array(batch.members)
        if result is None:
            result = np.full((len(gids), members["probes"].shape[1]), -1, np.int32)
        wanted = np.flatnonzero(np.isin(members["gid"], gids))
        result[np.searchsorted(gids, members["gid"][wanted])] = members["probes"][wanted]
    if result is None or (result < 0).any():
        raise DamagedFile(f"not all of {len(gids)} images are in a cluster")
    return result


def estimate(counts: Ints, images: int) -> Recall:
    """The recall of all N = `images` from (n, 2) `counts` of d, f of a simple random sample.

    Where n = N, r is the recall. Else the interval is Clopper and Pearson's (Biometrika 26, 1934)
    for x = r n_e successes in n_e trials, n_e being the effective sample size of Korn and Graubard
    (Survey Methodology 24, 1998), which stays sound for few misses, where +- t s does not:

        v = (n - 1) / n  sum (r_(i) - r)^2,  r_(i) - r = (r d_i - f_i) / (sum d - d_i)
            the delete-one jackknife of a ratio (Cochran, Sampling Techniques, 1977, 6.17)
        n_e = min(m, r (1 - r) / v (z / t_{m-1})^2) g,  m = queries with duplicates
        n_e = m g  where all (r = 1) or none (r = 0) were found: 3.69 / m is the rule of three

    A query is one trial at most, however many duplicates it has. g = -ln(1 - n/N) / (n/N) is for the
    finite population: of K missed, none is drawn with probability < (1 - n/N)^K. It is below the
    usual 1 / (1 - n/N), which is of variances and too bold for rare misses. No sample tells of a
    loss that sits in a few images, of very many duplicates each, that nobody drew.
    """
    from scipy.stats import beta, norm, t  # takes half a second, and most commands need none of it

    d, f = counts[:, 0].astype(np.float64), counts[:, 1].astype(np.float64)
    n, m, total = len(counts), int((d > 0).sum()), d.sum()
    sums = (n, m, int(total), int(f.sum()))
    if not m:
        return Recall(*sums, None, None, None)
    r = float(f.sum() / total)
    if n >= images:
        return Recall(*sums, r, r, r)
    trials = float(m)
    if 0 < r < 1 and m > 1:
        variance = (n - 1) / n * float((((f - r * d) / (total - d)) ** 2).sum())
        stretch = norm.ppf((1 + CONFIDENCE) / 2) / t.ppf((1 + CONFIDENCE) / 2, m - 1)
        trials = min(trials, r * (1 - r) / variance * stretch**2) if variance else trials
    trials *= -math.log1p(-n / images) / (n / images)
    hits, tail = r * trials, (1 - CONFIDENCE) / 2
    low = float(beta.ppf(tail, hits, trials - hits + 1)) if r > 0 else 0.0
    high = float(beta.ppf(1 - tail, hits + 1, trials - hits)) if r < 1 else 1.0
    return Recall(*sums, r, low, high)
