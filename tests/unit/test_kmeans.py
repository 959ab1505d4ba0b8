"""The number of clusters, a fit that repeats, and assignment by the float64 product."""

from __future__ import annotations

from typing import Any

import faiss
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from made_core.cluster import kmeans as centroids
from made_core.dedup import candidates
from made_core.vectors import unit64
from tests.support import oracle


def stored(seed: int, n: int, dim: int = 16) -> npt.NDArray[np.float16]:
    """Random rows as the store holds them."""
    return oracle.unit(np.random.default_rng(seed).normal(size=(n, dim))).astype(np.float16)


def table(seed: int, k: int, dim: int = 16) -> npt.NDArray[np.float32]:
    """Random centroids."""
    return oracle.unit(np.random.default_rng(seed).normal(size=(k, dim))).astype(np.float32)


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


def test_fit_finds_clumps() -> None:
    """Four tight clumps far apart: no cluster has rows of two clumps."""
    clump = np.random.default_rng(0).integers(0, 4, 200)
    noise = 0.01 * np.random.default_rng(1).normal(size=(200, 16))
    rows = oracle.unit(np.eye(16)[clump] + noise).astype(np.float16)
    homes = centroids.assign(rows, centroids.fit(rows, 12, 20, 0), 1).probes[:, 0]
    assert len(set(zip(clump.tolist(), homes.tolist(), strict=True))) == len(set(homes.tolist())) > 4


def test_threads_and_products_change_no_centroid(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor do the parts in which rows are summed, except for the last bits."""
    rows, found = stored(3, 3000), []
    for threads, int8 in ((1, True), (2, True), (2, False)):
        monkeypatch.setattr(centroids, "FIT_THREADS", threads)
        monkeypatch.setattr(candidates, "int8_is_faster", lambda int8=int8: int8)
        found.append(centroids.fit(rows, 20, 5, 0).tobytes())
    assert found[0] == found[1] == found[2]
    whole = centroids.lloyd(rows, 20, 1, 0)
    monkeypatch.setattr(centroids, "PART", 700)
    assert np.abs(centroids.lloyd(rows, 20, 1, 0) - whole).max() < 1e-6


@pytest.mark.parametrize("spread", [0.0, 0.5, 3.0])
def test_as_good_as_faiss(spread: float) -> None:
    """From the same first rows, the same mean cosine; on random rows and in clumps."""
    generator = np.random.default_rng(5)
    centres = generator.normal(size=(60, 32))[generator.integers(0, 60, 4000)]
    rows = oracle.unit(spread * centres + generator.normal(size=(4000, 32))).astype(np.float16)
    data = unit64(rows).astype(np.float32)
    chosen = np.random.default_rng(0).choice(len(rows), 40, replace=False)
    kmeans = faiss.Kmeans(32, 40, niter=20, spherical=True)
    kmeans.train(data, init_centroids=data[chosen])
    theirs, ours = (
        1 - centroids.assign(rows, some, 1).distance.mean()
        for some in (kmeans.centroids, centroids.lloyd(rows, 40, 20, 0))
    )
    assert ours > theirs - 1e-3


def test_by_faiss() -> None:
    """The GPU code path on the CPU: it is deterministic, and every row has a near centroid."""
    rows = stored(3, 400)
    one = centroids.by_faiss(rows, 16, 5, 0, gpu=False)
    assert one.shape == (16, 16) and one.dtype == np.float32
    assert one.tobytes() == centroids.by_faiss(rows, 16, 5, 0, gpu=False).tobytes()
    ours = centroids.assign(rows, centroids.lloyd(rows, 16, 5, 0), 1).distance.mean()
    assert abs(centroids.assign(rows, one, 1).distance.mean() - ours) < 0.02


def test_no_cluster_stays_empty() -> None:
    """Nine of ten rows are equal, so most initial centroids are equal: they are placed elsewhere."""
    rows = stored(6, 500)
    rows[50:] = rows[50]
    found = centroids.fit(rows, 40, 20, 0)
    home = centroids.assign(rows, found, 1).probes[:, 0]
    assert np.bincount(home, minlength=40).min() > 0
    assert (home[50:] == home[50]).all()


def test_inhabited() -> None:
    """Three different rows cannot fill eight clusters: the empty ones are removed, the others kept."""
    rows = np.repeat(stored(7, 3), 30, axis=0)
    found = centroids.fit(rows, 8, 5, 0)
    before = centroids.assign(rows, found, 1)
    some = centroids.inhabited(found, before)
    after = centroids.assign(rows, some, 1)
    assert len(some) == 3
    assert np.array_equal(some[after.probes[:, 0]], found[before.probes[:, 0]])


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
    assignment = centroids.assign(stored_rows, found, 2)
    assert np.isfinite(assignment.distance).all()


def test_as_many_clusters_as_rows() -> None:
    """k = n: each row is its own centroid."""
    rows = stored(4, 6)
    assignment = centroids.assign(rows, centroids.fit(rows, 6, 5, 0), 1)
    assert sorted(assignment.probes[:, 0].tolist()) == list(range(6))
    assert assignment.distance.max() < 1e-6


@settings(deadline=None, max_examples=40)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(0, 40),
    st.sampled_from([1, 2, 3, 17]),
    st.sampled_from([1, 2, 4, 64]),
)
def test_assign_is_the_float64_argmax(seed: int, n: int, k: int, p: int) -> None:
    """The p nearest, nearest first, and the distance to the home."""
    rows, means = stored(seed, n), table(seed + 1, k)
    found = centroids.assign(rows, means, p)
    assert found.probes.shape == (n, min(p, k))
    assert found.probes.tolist() == oracle.nearest(rows, means, p)
    assert found.distance.tolist() == pytest.approx(oracle.distances(rows, means), abs=2e-12)


@pytest.mark.parametrize("p", [1, 2, 5])
def test_near_ties_are_decided_in_float64(p: int) -> None:
    """Centroids an ulp of float32 apart: float32 products cannot tell them, float64 can."""
    generator = np.random.default_rng(5)
    base = table(5, 4, 64)
    means = np.concatenate([base, base, base, base])
    bits = means.view(np.int32)
    bits += generator.integers(-2, 3, bits.shape).astype(np.int32)
    rows = stored(6, 300, 64)
    score = rows.astype(np.float32) @ means.T
    expected = oracle.nearest(rows, means, p)
    assert (score.argmax(axis=1) != np.array(expected)[:, 0]).any()  # the test can fail
    assert centroids.assign(rows, means, p).probes.tolist() == expected


@pytest.mark.parametrize("p", [1, 2, 4])
def test_equal_centroids_go_to_the_lower_cluster(p: int) -> None:
    """Duplicates tie exactly: clusters 0 and 1 have all rows, 2 to 5 are copies of them."""
    means = np.tile(table(7, 2), (3, 1))
    rows = stored(8, 100)
    found = centroids.assign(rows, means, p).probes
    assert set(found[:, 0].tolist()) <= {0, 1}
    for probes in found.tolist():
        assert probes == [probes[0], probes[0] + 2, probes[0] + 4, 1 - probes[0]][:p]


@pytest.mark.parametrize("block", [1, 7, 4096])
def test_blocks_change_nothing(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows on both sides of a block's edge, bit for bit."""
    rows = stored(9, 50)
    means = np.concatenate([table(10, 20), table(10, 20)])
    whole = centroids.assign(rows, means, 3)
    monkeypatch.setattr(centroids, "BLOCK", block)
    parts = centroids.assign(rows, means, 3)
    assert parts.probes.tolist() == whole.probes.tolist()
    assert parts.distance.tobytes() == whole.distance.tobytes()


def test_more_rows_than_a_block() -> None:
    """The real block's edge."""
    rows = stored(11, centroids.BLOCK + 3, 4)
    means = table(12, 3, 4)
    found = centroids.assign(rows, means, 1)
    expected = (unit64(rows) @ unit64(means).T).argmax(axis=1)
    assert found.probes[:, 0].tolist() == expected.tolist()


def test_equal_rows_have_equal_distances() -> None:
    """At any position in a batch, so that ties in the order are exact."""
    rows = np.repeat(stored(13, 3, 48), 50, axis=0)
    distance = centroids.assign(rows, table(14, 5, 48), 1).distance
    assert len(set(distance.tolist())) == 3
