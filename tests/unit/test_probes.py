"""probes: auto: the fewest probes at which the near pairs of a sample are compared."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.recall import planted
from made_core.cluster import kmeans
from made_core.dedup import pair_recall, probes
from made_core.vectors import cosine


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.integers(1, 6))
def test_fewest_probes_agree_with_what_is_compared(seed: int, k: int, p: int) -> None:
    rng = np.random.default_rng(seed)
    left, right = (np.array([rng.permutation(k)[:p] for _ in range(30)], np.int32) for _ in "ab")
    fewest = probes.fewest_probes(left, right)
    for n in range(1, left.shape[1] + 1):
        compared = pair_recall.compared(left[:, :n], right[:, :n])
        assert ((fewest <= n) == compared).all()
    assert (fewest <= left.shape[1] + 1).all()


@pytest.mark.parametrize("queries", [4000, 600])
def test_the_fewest_that_suffice(queries: int) -> None:
    """By brute force over all pairs of the first `queries` rows with all rows, some of them far apart."""
    rows = planted(1500, 32, 0)[np.random.default_rng(1).permutation(1500)]
    centroids = kmeans.fit(rows, 16, 20, 0)
    found = probes.choose(rows, centroids, 0.3, queries=queries, block=256)
    nearest = kmeans.assign(rows, centroids, 8)
    i, j = np.triu_indices(len(rows), 1)
    near = (i < queries) & (cosine(rows[i], rows[j]) > 0.7)
    i, j = i[near], j[near]
    recalls = [pair_recall.compared(nearest[i, :n], nearest[j, :n]).mean() for n in range(1, 9)]
    expected = next((n for n in range(1, 9) if recalls[n - 1] >= probes.ENOUGH_OF_SAMPLE), 8)
    assert (found.probes, found.pairs) == (expected, len(i))
    assert found.recall == pytest.approx(recalls[expected - 1])
    assert expected > 1 or queries < len(rows)


@pytest.mark.parametrize(("sure", "expected"), [(1, 100), (30, 600), (10_000, 1000)])
def test_more_queries_until_enough_have_a_near_pair(
    monkeypatch: pytest.MonkeyPatch, sure: int, expected: int
) -> None:
    """Each 19th row has a copy at the end: 6 of 100 rows, 32 of 600. 200 clusters: at most 1,000."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(2000, 32)).astype(np.float16)
    rows[1900:] = rows[:1900:19]
    centroids = rng.normal(size=(200, 32)).astype(np.float32)
    monkeypatch.setattr(probes, "SURE", sure)
    found = probes.choose(rows, centroids, 1e-3, queries=100, block=100)
    assert found.pairs == -(-expected // 19)


def test_one_cluster_needs_one_probe() -> None:
    rows = planted(200, 16, 0)
    assert probes.choose(rows, kmeans.fit(rows, 1, 5, 0), 0.05).probes == 1


@pytest.mark.parametrize(
    ("copies", "of", "expected"),
    [(40, 40, probes.UNKNOWN), (probes.SURE, probes.SURE, 1), (40, 1, probes.UNKNOWN)],
)
def test_few_images_with_near_pairs_do_not_show_that_one_probe_suffices(
    copies: int, of: int, expected: int
) -> None:
    """All pairs are of equal rows, so one probe compares them; 41 equal images have 820 pairs."""
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(400, 64)).astype(np.float16)
    rows = rng.permutation(np.concatenate([rows, np.resize(rows[:of], (copies, 64))]))
    found = probes.choose(rows, kmeans.fit(rows, 4, 5, 0), 0.05)
    assert found.pairs >= probes.LEAST and (found.probes, found.recall) == (expected, 1)


def test_too_few_near_pairs_do_not_tell() -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(300, 64)).astype(np.float16)
    rows[1] = rows[0]
    found = probes.choose(rows, kmeans.fit(rows, 4, 5, 0), 0.05)
    assert (found.probes, found.pairs, found.recall) == (probes.UNKNOWN, 1, None)
