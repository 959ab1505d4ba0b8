"""The number of clusters, and a fit that repeats."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt
import pytest

from made_core.cluster import kmeans as centroids
from made_core.vectors import unit64
from tests.support import oracle


def stored(seed: int, n: int, dim: int = 16) -> npt.NDArray[np.float16]:
    """Random rows as stored."""
    return oracle.unit(np.random.default_rng(seed).normal(size=(n, dim))).astype(np.float16)


@pytest.mark.parametrize(
    ("k", "images", "expected"),
    [
        ("auto", 0, 1),
        ("auto", 1, 1),
        ("auto", 300, 1),
        ("auto", 1500, 1),
        ("auto", 2000, 2),
        ("auto", 10_000, 10),
        ("auto", 2**20, 1024),
        ("auto", 100_000_000, 10_000),
        (16, 300, 16),
        (16, 5, 5),
        (16, 0, 1),
        (1, 10, 1),
    ],
)
def test_choose_k(k: int | str, images: int, expected: int) -> None:
    """As given, at most one per image; auto: 1 per 1024, at most the square root."""
    assert centroids.choose_k(k, images) == expected


@pytest.mark.parametrize("k", [1, 4, 16])
def test_fit_repeats(k: int) -> None:
    """Equal rows and seed give equal bits and unit rows; another seed gives other centroids."""
    rows = stored(3, 400)
    one = centroids.fit(rows, k, 5, 0)
    assert one.shape == (k, 16)
    assert one.dtype == np.float32
    assert one.tobytes() == centroids.fit(rows, k, 5, 0).tobytes()
    assert np.abs(np.linalg.norm(one, axis=1) - 1).max() < 1e-5
    if k > 1:
        assert one.tobytes() != centroids.fit(rows, k, 5, 1).tobytes()


def test_gpus_are_used_on_request_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """A task without a GPU sees those of its node all the same."""
    trained: list[bool] = []

    class Fake(faiss.Kmeans):
        def __init__(self, *args: Any, gpu: bool, **fields: Any) -> None:
            trained.append(gpu)
            super().__init__(*args, **fields)

    monkeypatch.setattr(faiss, "Kmeans", Fake)
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 4, raising=False)
    centroids.fit(stored(3, 400), 4, 5, 0)
    centroids.fit(stored(3, 400), 4, 5, 0, gpu=True)
    monkeypatch.setattr(faiss, "get_num_gpus", lambda: 0)
    centroids.fit(stored(3, 400), 4, 5, 0, gpu=True)
    assert trained == [False, True, False]


def test_fit_finds_clumps() -> None:
    """Four tight clumps far apart: no cluster has rows of two clumps."""
    clump = np.random.default_rng(0).integers(0, 4, 200)
    noise = 0.01 * np.random.default_rng(1).normal(size=(200, 16))
    rows = oracle.unit(np.eye(16)[clump] + noise).astype(np.float16)
    homes = centroids.assign(rows, centroids.fit(rows, 12, 20, 0), 1)[:, 0]
    assert len(set(zip(clump.tolist(), homes.tolist(), strict=True))) == len(set(homes.tolist())) > 4


@pytest.mark.integration
def test_fit_repeats_in_another_process() -> None:
    """The centroids do not depend on addresses or the hash seed of a process."""
    code = (
        "import hashlib\n"
        "from made_core.cluster import kmeans\n"
        "from tests.unit.test_kmeans import stored\n"
        "print(hashlib.sha256(kmeans.fit(stored(3, 3000), 20, 5, 0).tobytes()).hexdigest())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    here = hashlib.sha256(centroids.fit(stored(3, 3000), 20, 5, 0).tobytes()).hexdigest()
    assert done.stdout.strip() == here


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads_are_fixed_and_restored(threads: int) -> None:
    """For any number of threads of the process; also if training fails."""
    rows = stored(3, 3000)
    before = faiss.omp_get_max_threads()
    try:
        found = []
        for outside in (1, 2):
            faiss.omp_set_num_threads(outside)
            found.append(centroids.fit(rows, 20, 5, 0, threads).tobytes())
            assert faiss.omp_get_max_threads() == outside
            with pytest.raises(RuntimeError):
                centroids.fit(rows[:3], 4, 5, 0, threads)
            assert faiss.omp_get_max_threads() == outside
        assert found[0] == found[1]
    finally:
        faiss.omp_set_num_threads(before)


def test_all_rows_are_trained_on() -> None:
    """One centroid is the mean of all 3,000 rows, not of a sample."""
    rows = stored(5, 3000)
    mean = unit64(rows).mean(axis=0)
    found = centroids.fit(rows, 1, 2, 0)
    assert np.abs(found[0] - mean / np.linalg.norm(mean)).max() < 1e-5


def test_lengths_change_no_centroid() -> None:
    """Rows are normalised, whatever their stored length."""
    rows = stored(5, 300)
    longer = rows * np.float16(4)
    assert centroids.fit(longer, 8, 5, 0).tobytes() == centroids.fit(rows, 8, 5, 0).tobytes()


def test_no_cluster_stays_empty() -> None:
    """Nine of ten rows are nearly equal, and so are most initial centroids: their cluster is split."""
    rows = stored(6, 500)
    noise = np.random.default_rng(1).normal(size=(450, 16))
    rows[50:] = rows[50] + 0.05 * noise
    found = centroids.fit(rows, 40, 20, 0)
    home = centroids.assign(rows, found, 1)[:, 0]
    assert np.bincount(home, minlength=40).min() > 0


def test_inhabited() -> None:
    """Three different rows cannot fill eight clusters: the empty ones are removed, the others kept."""
    rows = np.repeat(stored(7, 3), 30, axis=0)
    found = centroids.fit(rows, 8, 5, 0)
    before = centroids.assign(rows, found, 1)[:, 0]
    some = centroids.inhabited(found, before)
    after = centroids.assign(rows, some, 1)[:, 0]
    assert len(some) == 3
    assert np.array_equal(some[after], found[before])


@pytest.mark.parametrize(
    "rows",
    [
        np.array([[1, 0], [-1, 0]]),  # a row and its negative: their mean is zero
        np.array([[1, 0], [-1, 0], [0, 1], [0, -1]]),
        np.ones((9, 2)),
    ],
)
@pytest.mark.parametrize("k", [1, 2])
def test_fit_of_odd_rows(rows: npt.NDArray[Any], k: int) -> None:
    """Each centroid points somewhere, so each row has a home and a distance."""
    stored_rows = rows.astype(np.float16)
    found = centroids.fit(stored_rows, k, 5, 0)
    assert np.abs(np.linalg.norm(found, axis=1) - 1).max() < 1e-5
    home = centroids.assign(stored_rows, found, 2)[:, 0]
    assert np.isfinite(centroids.distances(stored_rows, found, home)).all()


def test_as_many_clusters_as_rows() -> None:
    """k = n: each row is its own centroid."""
    rows = stored(4, 6)
    found = centroids.fit(rows, 6, 5, 0)
    home = centroids.assign(rows, found, 1)[:, 0]
    assert sorted(home.tolist()) == list(range(6))
    assert centroids.distances(rows, found, home).max() < 1e-6
