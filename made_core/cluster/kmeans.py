"""Spherical k-means: the only file that knows FAISS. Fit on a sample, assign exactly."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import faiss
import numpy as np
import numpy.typing as npt
import torch

from made_core.cluster.nearest import Table
from made_core.dedup.candidates import unit32
from made_core.vectors import Rows, unit64

IMAGES_PER_CLUSTER = 1024  # of k: auto below 2^20 images: a block of the pair search
FIT_THREADS = 2  # fixed: FAISS's sums depend on the number of threads
BLOCK = 4096  # rows of a product
PART = 1 << 14  # rows that a thread takes at a time

FARTHER = 1.2  # mean distance to the centroids, against that when they were trained: they fit no more
GROWN = 4.0  # images, against then: sqrt(images) has doubled, and comparing costs n^2 / k

Centroids = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Assignment:
    """Where rows belong."""

    probes: npt.NDArray[np.int32]  # (n, p) nearest clusters, the nearest (home) first
    distance: npt.NDArray[np.float64]  # (n,) 1 - <row, centroid of home>


@dataclass(frozen=True)
class Drift:
    """How far a growing corpus has moved from its centroids."""

    distance: float  # new images' mean distance to their centroids / the trained-on ones'
    growth: float  # images / images when the centroids were trained
    train_anew: bool  # farther than FARTHER, or grown beyond GROWN


def drift(trained: float, new: float, images_then: int, images: int) -> Drift:
    """The drift, from mean distances 1 - cosine and numbers of images."""
    # Where all images were alike (distance 0), any other is infinitely far: said as a large number.
    distance = min(1e6, new / trained) if trained > 0 else (1.0 if new <= 0 else 1e6)
    growth = images / images_then
    return Drift(round(distance, 4), round(growth, 4), distance > FARTHER or growth > GROWN)


def choose_k(k: int | str, images: int) -> int:
    """The number of clusters: as given, but at most `images`; auto: images / 1024, at most
    sqrt(images), at least 1. Few images make one cluster: exact, and cheap.

    Comparing costs n^2 / k products, assigning n k: they balance at sqrt(n). Below 2^20 images
    fewer clusters lose fewer pairs at their borders, and comparing takes seconds anyway.
    """
    auto = min(round(images / IMAGES_PER_CLUSTER), math.isqrt(images))
    return max(1, min(auto if k == "auto" else int(k), images))


def fit(rows: Rows, k: int, iterations: int, seed: int) -> Centroids:
    """(k, dim) float32 unit centroids of (n, dim) stored rows, n >= k, in the order given.

    FAISS's on a GPU, where the same rows, seed and build give the same. Else Lloyd's iterations by
    `nearest`: faster than FAISS on a CPU, and the same on any number of threads.
    """
    if getattr(faiss, "get_num_gpus", int)():
        return by_faiss(rows, k, iterations, seed, gpu=True)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # threads of our own: they meet once an iteration, not in every operation
    try:
        return lloyd(rows, k, iterations, seed)
    finally:
        torch.set_num_threads(threads)


def by_faiss(rows: Rows, k: int, iterations: int, seed: int, gpu: bool) -> Centroids:
    """`fit` by FAISS."""
    data = unit64(rows).astype(np.float32)
    faiss.omp_set_num_threads(FIT_THREADS)
    kmeans = faiss.Kmeans(
        data.shape[1], k, niter=iterations, spherical=True, seed=seed,
        min_points_per_centroid=1, max_points_per_centroid=max(1, len(data)), gpu=gpu,
    )  # fmt: skip
    kmeans.train(data)
    centroids: Centroids = np.ascontiguousarray(kmeans.centroids, np.float32)
    # Opposite rows (a image and its negative) may have a mean of zero, which points nowhere.
    centroids[~centroids.any(axis=1)] = data[0]
    return centroids


def lloyd(rows: Rows, k: int, iterations: int, seed: int) -> Centroids:
    """`fit` by Lloyd's iterations from k seeded rows.

    A cluster that lost all its rows starts again at one of the rows farthest from their own
    centroids, no two of them equal; where there are too few, it stays as it is, empty.
    """
    chosen = np.random.default_rng(seed).choice(len(rows), k, replace=False)
    centroids: Centroids = unit32(rows[chosen]).numpy()
    with ThreadPoolExecutor(FIT_THREADS) as pool:
        for _ in range(iterations):
            home, sums = _homes(pool, rows, centroids)
            length = np.linalg.norm(sums, axis=1)
            some = length > 0  # no rows, or opposite ones (a image and its negative): nowhere to go
            empty = np.flatnonzero(np.bincount(home, minlength=k) == 0)
            far = _farthest(rows, centroids, home)[: len(empty)] if len(empty) else empty
            centroids[some] = sums[some] / length[some, None]
            centroids[empty[: len(far)]] = unit32(rows[far]).numpy()
    return centroids


def _homes(
    pool: ThreadPoolExecutor, rows: Rows, centroids: Centroids
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float64]]:
    """((n,) nearest centroid, (k, dim) sums of each cluster's unit rows), whatever the threads."""
    k = len(centroids)

    def of(start: int) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]:
        part = rows[start : start + PART]
        home = Table(centroids).nearest(part, 1)[:, 0]
        order = np.argsort(home, kind="stable")
        bags = torch.from_numpy(np.searchsorted(home[order], np.arange(k)))
        total = torch.nn.functional.embedding_bag(torch.from_numpy(order), unit32(part), bags, mode="sum")
        return home, total.numpy()

    homes, sums = [], np.zeros(centroids.shape)
    for home, total in pool.map(of, range(0, len(rows), PART)):  # in order: sums of floats depend on it
        homes.append(home)
        sums += total
    return np.concatenate(homes), sums


def _farthest(rows: Rows, centroids: Centroids, home: npt.NDArray[np.int32]) -> npt.NDArray[np.int64]:
    """Rows of different distances to their centroids, the farthest first."""
    far: npt.NDArray[np.int64] = np.unique(-_distance(rows, unit64(centroids), home), return_index=True)[1]
    return far


def inhabited(centroids: Centroids, assignment: Assignment) -> Centroids:
    """The centroids that are some row's nearest: the others cost products and hold nobody."""
    return centroids[np.unique(assignment.probes[:, 0])]


def assign(rows: Rows, centroids: Centroids, probes: int) -> Assignment:
    """The `probes` nearest clusters of (n, dim) stored rows, exactly.

    Fast products tell who may be, the float64 product of the stored rows decides, and ties go to
    the lower cluster: block size, threads and device change nothing.
    """
    table = Table(centroids)
    nearest = table.nearest(rows, probes)
    return Assignment(nearest, _distance(rows, table.exact, nearest[:, 0]))


def _distance(
    rows: Rows, exact: npt.NDArray[np.float64], home: npt.NDArray[np.int32]
) -> npt.NDArray[np.float64]:
    """(n,) 1 - <row, centroid of home>."""
    distance = np.empty(len(rows))
    for start in range(0, len(rows), BLOCK):
        part = unit64(rows[start : start + BLOCK])
        distance[start : start + BLOCK] = 1 - np.einsum("ij,ij->i", part, exact[home[start : start + BLOCK]])
    # Twelve decimals: equal rows are ties, whatever the last bits of their sums.
    return np.round(distance, 12)
