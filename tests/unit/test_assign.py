"""The nearest centroids are those by float64 products, however they are found."""

from __future__ import annotations

from typing import Any

import faiss
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from made_core.cluster import kmeans
from made_core.vectors import unit64
from tests.support import oracle


def stored(seed: int, n: int, dim: int = 16) -> npt.NDArray[np.float16]:
    """Random rows as stored."""
    return oracle.unit(np.random.default_rng(seed).normal(size=(n, dim))).astype(np.float16)


def table(seed: int, k: int, dim: int = 16) -> npt.NDArray[np.float32]:
    """Random centroids."""
    return oracle.unit(np.random.default_rng(seed).normal(size=(k, dim))).astype(np.float32)


def clumped(seed: int, n: int, dim: int, spread: float, spike: float) -> npt.NDArray[Any]:
    """Rows in three clumps of any width, with and without one dominating coordinate; none zero."""
    generator = np.random.default_rng(seed)
    rows = generator.normal(size=(3, dim))[generator.integers(0, 3, n)]
    rows = rows + spread * generator.normal(size=(n, dim))
    rows[:, 0] += spike
    rows[(rows == 0).all(axis=1)] = 1
    return rows


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
    found = kmeans.assign(rows, means, p)
    assert found.shape == (n, min(p, k))
    assert found.tolist() == oracle.nearest(rows, means, p)
    distance = kmeans.distances(rows, means, found[:, 0])
    assert distance.tolist() == pytest.approx(oracle.distances(rows, means), abs=2e-12)


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
    assert kmeans.assign(rows, means, p).tolist() == expected


@pytest.mark.parametrize("p", [1, 2, 4])
def test_equal_centroids_go_to_the_lower_cluster(p: int) -> None:
    """Duplicates tie exactly: clusters 0 and 1 have all rows, 2 to 5 are copies of them."""
    means = np.tile(table(7, 2), (3, 1))
    rows = stored(8, 100)
    found = kmeans.assign(rows, means, p)
    assert set(found[:, 0].tolist()) <= {0, 1}
    for probes in found.tolist():
        assert probes == [probes[0], probes[0] + 2, probes[0] + 4, 1 - probes[0]][:p]


@pytest.mark.parametrize("block", [1, 7, 4096])
@pytest.mark.parametrize("threads", [1, 2])
def test_blocks_and_threads_change_nothing(block: int, threads: int) -> None:
    """Rows on both sides of a block's edge, bit for bit."""
    rows = stored(9, 50)
    means = np.concatenate([table(10, 20), table(10, 20)])
    whole = kmeans.assign(rows, means, 3)
    before = faiss.omp_get_max_threads()
    try:
        faiss.omp_set_num_threads(threads)
        parts = kmeans.assign(rows, means, 3, block)
    finally:
        faiss.omp_set_num_threads(before)
    assert parts.tobytes() == whole.tobytes()


def test_more_rows_than_a_block() -> None:
    """The real block's edge."""
    rows = stored(11, kmeans.BLOCK + 3, 4)
    means = table(12, 3, 4)
    found = kmeans.assign(rows, means, 1)
    expected = (unit64(rows) @ unit64(means).T).argmax(axis=1)
    assert found[:, 0].tolist() == expected.tolist()


def test_lengths_change_nothing() -> None:
    """Rows are normalised, whatever their stored length; so are the errors of their scores."""
    rows = stored(15, 200)
    means = table(16, 30)
    means[15:] = means[:15]
    means.view(np.int32)[15:] += 1
    factors = np.float16(2.0) ** (np.arange(200, dtype=np.float16) % 12)
    longer = rows * factors[:, None]  # without loss
    found = kmeans.assign(longer, means, 3)
    assert found.tolist() == oracle.nearest(rows, means, 3)
    home = found[:, 0]
    expected = kmeans.distances(rows, means, home)
    assert kmeans.distances(longer, means, home).tolist() == pytest.approx(expected, abs=2e-12)


def test_many_within_the_error_of_float32() -> None:
    """With 600 centroids in one direction, the search is widened until it has all that may be nearest."""
    means = np.tile(table(2, 1, 64), (600, 1))
    means.view(np.int32)[1::2, 3] += 1
    rows = stored(3, 20, 64)
    assert kmeans.assign(rows, means, 3).tolist() == oracle.nearest(rows, means, 3)


@settings(deadline=None, max_examples=150)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 40),
    st.sampled_from([1, 2, 17, 150]),
    st.sampled_from([1, 3, 64, 320]),
    st.sampled_from([0.0, 1e-6, 1e-3, 0.05, 0.5]),
    st.sampled_from([0.0, 1.0, 8.0]),
    st.sampled_from([1, 2, 4, 64]),
)
def test_float64_decides_in_clumps(
    seed: int, n: int, k: int, dim: int, spread: float, spike: float, p: int
) -> None:
    """Rows and centroids in clumps of any width, each centroid twice."""
    rows = clumped(seed, n, dim, spread, spike).astype(np.float16)
    rows[(rows == 0).all(axis=1)] = 1
    means = oracle.unit(clumped(seed + 1, k, dim, spread, spike)).astype(np.float32)
    means[k // 2 :] = means[: k - k // 2]  # exact ties
    expected = np.array(oracle.nearest(rows, means, p))
    score = oracle.products(oracle.unit(rows), oracle.unit(means))
    found = kmeans.assign(rows, means, p)
    assert found.shape == (n, min(p, k)) and found.dtype == np.int32
    # Sums of 320 float64 products differ in their last bits with the order of summing.
    best, ours = (np.take_along_axis(score, some.astype(np.int64), 1) for some in (expected, found))
    assert np.abs(ours - best).max() < 1e-14
    assert all(len(set(probes)) == len(probes) for probes in found.tolist())
    clear = np.flatnonzero((np.diff(-np.sort(-score, axis=1), axis=1) < -1e-14).all(axis=1))
    assert found[clear].tolist() == expected[clear].tolist()


def test_no_rows() -> None:
    found = kmeans.assign(stored(0, 0), table(1, 5), 2)
    assert found.shape == (0, 2)
    assert kmeans.distances(stored(0, 0), table(1, 5), found[:, 0]).shape == (0,)


def test_read_only_rows() -> None:
    """Such as those of a memory map."""
    rows = stored(17, 30)
    means = table(18, 5)
    expected = kmeans.assign(rows, means, 2)
    distance = kmeans.distances(rows, means, expected[:, 0])
    rows.flags.writeable = False
    assert kmeans.assign(rows, means, 2).tolist() == expected.tolist()
    assert kmeans.distances(rows, means, expected[:, 0]).tolist() == distance.tolist()


def test_equal_rows_have_equal_distances() -> None:
    """At any position in a batch, so that ties in the order are exact."""
    rows = np.repeat(stored(13, 3, 48), 50, axis=0)
    means = table(14, 5, 48)
    distance = kmeans.distances(rows, means, kmeans.assign(rows, means, 1)[:, 0])
    assert len(set(distance.tolist())) == 3
