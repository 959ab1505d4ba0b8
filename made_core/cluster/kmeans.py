"""Spherical k-means by FAISS, and the nearest centroids exactly. The only file that imports FAISS."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import faiss
import numpy as np
import numpy.typing as npt
import torch

from made_core.vectors import MARGIN, Rows, unit64

IMAGES_PER_CLUSTER = 1024  # of k: auto below 2^20 images: a block of the pair search
FIT_THREADS = 2  # FAISS's float32 products, and so the centroids, may depend on the number of threads
BLOCK = 4096  # rows of a search, FAISS's own block: their products with 1,024 centroids are 16 MB
PIECE = 128  # float64 products at a time: their rows and centroids fit a core's cache
PAGE = 4096  # bytes
WIDER = 8  # times as many neighbours where those found are all within the error of float32

Ints = npt.NDArray[np.int64]
Clusters = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float64]
Centroids = npt.NDArray[np.float32]


def choose_k(k: int | str, images: int) -> int:
    """The number of clusters: as given, but at most `images`; auto: images / 1024, at most
    sqrt(images), at least 1. Few images make one cluster: exact, and cheap.

    Comparing costs n^2 / k products, assigning n k: they balance at sqrt(n). Below 2^20 images
    fewer clusters lose fewer pairs at their borders, and comparing takes seconds anyway.
    """
    auto = min(round(images / IMAGES_PER_CLUSTER), math.isqrt(images))
    return max(1, min(auto if k == "auto" else int(k), images))


def fit(
    rows: Rows, k: int, iterations: int, seed: int, threads: int = FIT_THREADS, gpu: bool = False
) -> Centroids:
    """(k, dim) float32 unit centroids of (n, dim) stored rows, n >= k, in the order given.

    By FAISS, on `threads` threads. The same rows, seed, threads and FAISS give the same centroids.

    Args:
        gpu: on the GPUs that the process sees instead, if there are any. Without a reservation it may see
            GPUs of others.
    """
    data = _widened(rows, np.empty(rows.shape, np.float32))
    data /= np.sqrt(np.einsum("ij,ij->i", data, data))[:, None]
    kmeans = faiss.Kmeans(
        data.shape[1], k, niter=iterations, spherical=True, seed=seed,
        min_points_per_centroid=1, max_points_per_centroid=len(data),  # no warning, no subsample
        gpu=gpu and bool(getattr(faiss, "get_num_gpus", int)()),
    )  # fmt: skip
    with _threads(threads):
        kmeans.train(data)
    centroids: Centroids = np.ascontiguousarray(kmeans.centroids, np.float32)
    # Opposite rows (an image and its negative) may have a mean of zero, which points nowhere.
    centroids[~centroids.any(axis=1)] = data[0]
    return centroids


@contextmanager
def _threads(number: int) -> Iterator[None]:
    """Runs FAISS on `number` threads; OpenMP's setting, which other libraries may share, comes back."""
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(number)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


def inhabited(centroids: Centroids, home: Clusters) -> Centroids:
    """The centroids that are nearest to a row: the others cost products and hold no row.

    home: (n,) the nearest cluster of each row.
    """
    return centroids[np.unique(home)]


def assign(rows: Rows, centroids: Centroids, probes: int, block: int = BLOCK) -> Clusters:
    """(n, p) the `probes` nearest clusters, at most k, of (n, dim) stored rows, exactly; the nearest first.

    FAISS's float32 scores decide where they are clearly apart, else the float64 products of the
    stored rows and the unit centroids; ties go to the lower cluster. So `block` (rows of a search),
    threads and device change nothing. No row is zero.
    """
    exact = unit64(centroids)
    k, dim = exact.shape
    index = faiss.IndexFlatIP(dim)
    index.add(exact.astype(np.float32))
    nearest = np.empty((len(rows), min(probes, k)), np.int32)
    memory = np.empty((min(block, len(rows)), dim), np.float32)
    close = []
    for start in range(0, len(rows), block):
        some = slice(start, start + block)
        wide = _widened(rows[some], memory)
        score, found = index.search(wide, min(probes + 1, k))
        nearest[some] = found[:, :probes]
        # Where all these scores are farther apart than twice the error of one, they are in the true order.
        length = np.sqrt(np.vecdot(wide, wide))
        tied = score[:, :-1] - score[:, 1:] <= 2 * MARGIN * length[:, None]
        close.append(start + np.flatnonzero(tied.any(axis=1)))
    again = np.concatenate(close) if close else np.empty(0, int)
    for start in range(0, len(again), block):
        these = again[start : start + block]
        nearest[these] = _nearest(index, exact, _widened(rows[these], memory), nearest.shape[1])
    return nearest


def distances(rows: Rows, centroids: Centroids, home: Clusters) -> Floats:
    """(n,) 1 - <unit row, unit centroid>, of (n, dim) stored rows and the centroid of their cluster `home`.

    In float64, to twelve decimals: equal rows are ties, whatever the last bits of their sums. No row is zero.
    """
    exact = unit64(centroids)
    product, square = np.empty(len(rows)), np.empty(len(rows))
    narrow = np.empty((PIECE, exact.shape[1]), np.float32)
    wide, mean = _pieces(exact)
    for start in range(0, len(rows), PIECE):
        some = slice(start, start + PIECE)
        n = len(home[some])
        wide[:n] = _widened(rows[some], narrow)
        np.take(exact, home[some], axis=0, out=mean[:n], mode="clip")  # "raise" copies once more
        square[some] = np.vecdot(wide[:n], wide[:n])
        product[some] = np.vecdot(wide[:n], mean[:n])
    return np.round(1 - product / np.sqrt(square), 12)


def _nearest(index: faiss.IndexFlatIP, exact: Floats, rows: npt.NDArray[np.float32], p: int) -> Ints:
    """(n, p) nearest of the k `exact` centroids, which `index` holds, to (n, dim) rows of any length.

    With e the error of a float32 score, whoever is among the p nearest scores within 2 e of the
    p-th best.
    """
    k = len(exact)
    nearest = np.empty((len(rows), p), np.int64)
    slack = 2 * MARGIN * np.linalg.norm(rows.astype(np.float64), axis=1)
    left = np.arange(len(rows))
    width = p + 1
    while len(left):
        width = min(WIDER * width, k)
        score, found = index.search(rows[left], width)
        least = score[:, p - 1] - slack[left]
        whole = (score[:, -1] < least) | (width == k)  # none beyond those found may be nearer
        row, place = np.nonzero((score >= least[:, None]) & whole[:, None])
        nearest[left[whole]] = _best(rows[left], exact, row, found[row, place], p)
        left = left[~whole]
    return nearest


def _best(rows: npt.NDArray[np.float32], exact: Floats, row: Ints, cluster: Ints, p: int) -> Ints:
    """(m, p) the p nearest of the candidates (row, cluster), m different rows by number."""
    held, place = np.unique(row, return_inverse=True)
    unit = unit64(rows[held])
    score = np.empty(len(row))
    for start in range(0, len(row), PIECE):
        some = slice(start, start + PIECE)
        score[some] = np.vecdot(unit[place[some]], exact[cluster[some]])
    order = np.lexsort((cluster, -score, place))
    first = np.searchsorted(place, np.arange(len(held)))
    best: Ints = cluster[order][first[:, None] + np.arange(p)]
    return best


def _pieces(exact: Floats) -> Floats:
    """(2, PIECE, dim) memory, half a page away from `exact`, counted modulo a page.

    Arrays often lie 16 bytes apart modulo a page, as the allocator leaves them. Copying rows of 4 KB then
    takes ten times as long: each load waits for a store to the same place of another page.
    """
    dim = exact.shape[1]
    room = np.empty(2 * PIECE * dim + PAGE // 8)
    skip = (exact.ctypes.data + PAGE // 2 - room.ctypes.data) % PAGE // 8
    return room[skip : skip + 2 * PIECE * dim].reshape(2, PIECE, dim)


def _widened(rows: Rows, out: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """(n, dim) stored rows, exactly, in the first n of `out`. torch widens ten times as fast as numpy."""
    result = out[: len(rows)]
    torch.from_numpy(result).copy_(torch.from_numpy(np.require(rows, requirements="W")))
    return result
