"""Spherical k-means: the only file that knows FAISS. Fit on a sample, assign exactly."""

from __future__ import annotations

import math
from dataclasses import dataclass

import faiss
import numpy as np
import numpy.typing as npt
import torch

from made_core.embeddings import unit64

PICTURES_PER_CLUSTER = 1024  # of k: auto below 2^20 pictures: a block of the pair search
FIT_THREADS = 2  # fixed: FAISS's sums depend on the number of threads
MARGIN = 1e-5  # more than twice the error of a float32 product of unit rows (4e-7 measured)
BLOCK = 4096  # rows of a product

FARTHER = 1.2  # mean distance to the centroids, against that when they were trained: they fit no more
GROWN = 4.0  # pictures, against then: sqrt(pictures) has doubled, and comparing costs n^2 / k

Centroids = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Assignment:
    """Where rows belong."""

    probes: npt.NDArray[np.int32]  # (n, p) nearest clusters, the nearest (home) first
    distance: npt.NDArray[np.float64]  # (n,) 1 - <row, centroid of home>


@dataclass(frozen=True)
class Drift:
    """How far a growing corpus has moved from its centroids."""

    distance: float  # new pictures' mean distance to their centroids / the trained-on ones'
    growth: float  # pictures / pictures when the centroids were trained
    train_anew: bool  # farther than FARTHER, or grown beyond GROWN


def drift(trained: float, new: float, pictures_then: int, pictures: int) -> Drift:
    """The drift, from mean distances 1 - cosine and numbers of pictures."""
    # Where all pictures were alike (distance 0), any other is infinitely far: said as a large number.
    distance = min(1e6, new / trained) if trained > 0 else (1.0 if new <= 0 else 1e6)
    growth = pictures / pictures_then
    return Drift(round(distance, 4), round(growth, 4), distance > FARTHER or growth > GROWN)


def choose_k(k: int | str, pictures: int) -> int:
    """The number of clusters: as given, but at most `pictures`; auto: pictures / 1024, at most
    sqrt(pictures), at least 1. Few pictures make one cluster: exact, and cheap.

    Comparing costs n^2 / k products, assigning n k: they balance at sqrt(n). Below 2^20 pictures
    fewer clusters lose fewer pairs at their borders, and comparing takes seconds anyway.
    """
    auto = min(round(pictures / PICTURES_PER_CLUSTER), math.isqrt(pictures))
    return max(1, min(auto if k == "auto" else int(k), pictures))


def fit(rows: npt.NDArray[np.float16], k: int, iterations: int, seed: int) -> Centroids:
    """(k, dim) float32 unit centroids of (n, dim) stored rows, n >= k, in the order given.

    The same rows, seed and FAISS build give the same centroids.
    """
    data = unit64(rows).astype(np.float32)
    faiss.omp_set_num_threads(FIT_THREADS)
    kmeans = faiss.Kmeans(
        data.shape[1], k, niter=iterations, spherical=True, seed=seed,
        min_points_per_centroid=1, max_points_per_centroid=max(1, len(data)),
        gpu=bool(getattr(faiss, "get_num_gpus", int)()),
    )  # fmt: skip
    kmeans.train(data)
    centroids: Centroids = np.ascontiguousarray(kmeans.centroids, np.float32)
    # Opposite rows (a picture and its negative) may have a mean of zero, which points nowhere.
    centroids[~centroids.any(axis=1)] = data[0]
    return centroids


def assign(rows: npt.NDArray[np.float16], centroids: Centroids, probes: int) -> Assignment:
    """The `probes` nearest clusters of (n, dim) stored rows, exactly.

    float32 products decide; where they are closer than their error, the float64 product of the
    stored rows does, and ties go to the lower cluster: block size and device change nothing.
    """
    exact = unit64(centroids)
    p = min(probes, len(centroids))
    n = len(rows)
    nearest = np.empty((n, p), np.int32)
    distance = np.empty(n, np.float64)
    table = torch.from_numpy(exact.astype(np.float32)).T.contiguous()
    for start in range(0, n, BLOCK):
        part = unit64(rows[start : start + BLOCK])
        score = torch.from_numpy(part.astype(np.float32)) @ table
        best = torch.topk(score, min(p + 1, len(centroids)), dim=1)
        chosen = best.indices[:, :p].numpy().astype(np.int32)
        gaps = (best.values[:, :-1] - best.values[:, 1:]).numpy()
        close = np.flatnonzero((gaps < MARGIN).any(axis=1))
        if len(close):
            product = np.einsum("id,kd->ik", part[close], exact)
            chosen[close] = np.argsort(-product, axis=1, kind="stable")[:, :p]
        nearest[start : start + BLOCK] = chosen
        home = exact[chosen[:, 0]]
        distance[start : start + BLOCK] = 1 - np.einsum("ij,ij->i", part, home)
    # Twelve decimals: equal rows are ties, whatever the last bits of their sums.
    return Assignment(nearest, np.round(distance, 12))
