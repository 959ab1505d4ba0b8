"""Clusters compared during the walk give the same decisions as all their pairs."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from made_core.dedup import near_pairs, rules
from made_core.dedup.crowded import STEP, CrowdedCluster, KeptRows, reference_edges
from made_core.vectors import Rows, cosine
from tests.support import oracle


def clumped(seed: int, n: int, dim: int, spread: float) -> Rows:
    """Rows in a few tight clumps, some of them equal."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(4, dim))[rng.integers(0, 4, n)] + spread * rng.normal(size=(n, dim))
    rows[rng.random(n) < 0.2] = rows[0]
    return rows.astype(np.float16)


def crowds(rows: Rows, probes: np.ndarray, some: set[int]) -> list[CrowdedCluster]:
    """The clusters `some` as crowded ones; a node is its row's number."""
    found = []
    for c in sorted(some):
        members = np.flatnonzero((probes == c).any(axis=1))
        if len(members):
            found.append(CrowdedCluster(members, probes[members, 0] == c, rows[members]))
    return found


@given(
    st.integers(0, 2**32 - 1), st.integers(1, 60), st.sampled_from([0.0, 0.02, 0.1, 0.4]), st.integers(1, 2)
)
def test_decisions_are_those_of_all_pairs(seed: int, n: int, spread: float, width: int) -> None:
    rng = np.random.default_rng(seed)
    rows, rank = clumped(seed, n, 8, spread), rng.permutation(n)
    k, bound = 3, 0.95
    probes = np.array([rng.permutation(k)[:width] for _ in range(n)])
    dense = {c for c in range(k) if rng.random() < 0.6}
    every = sorted(oracle.pairs(rows, probes.tolist(), bound))
    i, j = (np.array([p[side] for p in every], np.int64) for side in (0, 1))
    x = oracle.unit(rows)
    value = np.array([float((x[a] * x[b]).sum()) for a, b in every])
    # Pairs of clusters outside `dense` are stored: they exist whichever cluster reports them.
    stored = np.array(
        [any(c not in dense for c in {int(probes[a, 0]), int(probes[b, 0])}) for a, b in every], bool
    )
    parts = crowds(rows, probes, dense)

    whole = rules.cover(rank, i, j, value, bound)
    split = rules.cover(rank, i[stored], j[stored], value[stored], bound, parts)
    assert split.kept.tolist() == whole.kept.tolist()
    near = oracle.products(x, x)
    for node in np.flatnonzero(~split.kept).tolist():
        other = int(split.representative[node])
        assert split.kept[other] and rank[other] < rank[node] and near[node, other] > bound

    home = probes[:, 0].astype(np.int64)
    alone = np.array([int(home[a]) not in dense for a in i], bool)
    whole = rules.reference(rank, home, i, j, value, bound)
    split = rules.reference(rank, home, i[alone], j[alone], value[alone], bound, parts)
    assert split.kept.tolist() == whole.kept.tolist()
    assert split.kept[split.representative].all()


@given(st.integers(0, 2**32 - 1), st.integers(2, 60), st.integers(1, 2))
def test_kept_rows_represent_others_as_with_all_pairs(seed: int, n: int, width: int) -> None:
    """Some kept rows of an earlier generation are near each other; the nearest still represents."""
    rng = np.random.default_rng(seed)
    rows, k, bound = rng.normal(size=(n, 3)).astype(np.float16), 2, 0.8
    stays, home = np.arange(n) < rng.integers(0, n), rng.integers(0, k, n)
    rank = np.where(stays, 0, n) + rng.permutation(n)
    rank = np.argsort(np.argsort(rank))
    probes = np.stack([home, 1 - home], axis=1)[:, :width]
    found = [(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0)), *near_pairs.near(rows, bound, 16)]
    i, j, value = (np.concatenate(side) for side in zip(*found, strict=True))
    whole = rules.reference(rank, home, i, j, value, bound, (), stays)
    none = np.zeros(0, np.int64)
    crowd = crowds(rows, probes, set(range(k)))
    split = rules.reference(rank, home, none, none, np.zeros(0), bound, crowd, stays)
    assert split.kept.tolist() == whole.kept.tolist()
    assert split.representative.tolist() == whole.representative.tolist()


@pytest.mark.parametrize("block", [1, 7, 64, 2048])
def test_reference_edges_at_every_block_size(block: int) -> None:
    rows, n = clumped(1, 90, 8, 0.05), 90
    rank = np.random.default_rng(2).permutation(n)
    dense = CrowdedCluster(np.arange(n), np.ones(n, bool), rows)
    _, later, value = reference_edges(dense, rank, np.zeros(n, bool), 0.97, block)
    score = oracle.products(oracle.unit(rows), oracle.unit(rows))
    expected = {j for j in range(n) if any(rank[i] < rank[j] and score[i, j] > 0.97 for i in range(n))}
    assert set(later.tolist()) == expected and (value > 0.97).all()


def test_reference_edges_widen_a_block_of_rows_at_a_time() -> None:
    """Each row has an edge, and the last one is decided at the bound against all: not all at once."""
    n, dim = 6_000, 64
    rows = np.ones((n, dim), np.float16)
    rows[-1, 0] = 30
    bound = float(cosine(rows[-1:], rows[:1])[0])
    dense = CrowdedCluster(np.arange(n), np.ones(n, bool), rows)
    tracemalloc.start()
    _, later, _ = reference_edges(dense, np.arange(n), np.zeros(n, bool), bound, 256)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert np.unique(later).tolist() == list(range(1, n - 1))
    assert peak < n * dim * 8 * 2, "as many bytes as two float64 copies of the rows"


def test_thousands_of_near_equal_images_cost_their_rows() -> None:
    """10,000 of them have 50 million near pairs; the walk holds one kept row and one edge per image."""
    rng = np.random.default_rng(0)
    n = 10_000
    rows = (np.ones(16) + 1e-3 * rng.normal(size=(n, 16))).astype(np.float16)
    dense = CrowdedCluster(np.arange(n), np.ones(n, bool), rows)
    none = np.zeros(0, np.int64)
    found = rules.cover(np.arange(n), none, none, np.zeros(0), 0.99, [dense])
    assert found.kept.sum() == 1 and (found.representative == 0).all()


@pytest.mark.parametrize("n", [1, STEP, STEP + 1, 2 * STEP + 3])
def test_field_grows(n: int) -> None:
    """Over several steps: rows in pairs, walked backwards, so that every second row has a kept one."""
    rows = np.repeat(np.eye(n // 2 + 1, dtype=np.float16), 2, axis=0)[:n]
    field = KeptRows(CrowdedCluster(np.arange(n) + 7, np.ones(n, bool), rows), np.arange(n + 7)[::-1], 0.5)
    kept: list[int] = []
    for place in range(n - 1, -1, -1):
        nodes, value = field.near(place)
        assert nodes.tolist() == [node for node in kept if (node - 7) // 2 == place // 2]
        assert np.allclose(value, 1)
        if not len(nodes):
            field.keep(place)
            kept.append(place + 7)


@pytest.mark.parametrize("step", [1, 3, 16])
def test_steps_change_no_decision(step: int) -> None:
    """For any number of rows compared at a time and any split of the kept ones."""
    for seed, spread in ((0, 0.02), (1, 0.1), (2, 0.4), (3, 1.5)):
        rows, n = clumped(seed, 120, 8, spread), 120
        if spread > 1:  # many kept ones, each of which some later row needs
            rows[60:] = rows[:60]
        rank = np.random.default_rng(seed).permutation(n)
        none = np.zeros(0, np.int64)
        crowd = CrowdedCluster(np.arange(n), np.ones(n, bool), rows, step, 2 * step + 1)
        got = rules.cover(rank, none, none, np.zeros(0), 0.95, [crowd])
        x = oracle.unit(rows)
        walk = np.argsort(rank).tolist()
        score = oracle.products(x, x)[np.ix_(walk, walk)]
        expected = oracle.cover(score, np.ones((n, n), bool), range(n), 0.95)
        assert got.kept[walk].tolist() == [expected[place] == {place} for place in range(n)]


@pytest.mark.parametrize("step", [1, 16], ids=["kept in an earlier step", "kept in this step"])
def test_the_float64_product_decides_at_the_bound(step: int) -> None:
    """A float32 product is wrong by more than the distance of these bounds, in either direction."""
    rng = np.random.default_rng(0)
    first, ids = rng.normal(size=(12, 64)), np.arange(2)
    pairs = np.stack([first, first + 0.3 * rng.normal(size=first.shape)], axis=1).astype(np.float16)
    for rows in pairs:
        value = float(cosine(rows[:1], rows[1:])[0])
        for bound in (value, float(np.nextafter(value, 0))):
            expected = {0} if value > bound else set()
            crowd = CrowdedCluster(ids, np.ones(2, bool), rows, step)
            field = crowd.start(ids, bound)
            assert not len(field.near(0)[0])
            field.keep(0)
            assert set(field.near(1)[0].tolist()) == expected
            assert set(crowd.edges(ids, np.zeros(2, bool), bound)[0].tolist()) == expected


def test_every_row_kept() -> None:
    """4,000 rows that are far from each other: each is compared with all earlier rows and stays."""
    n = 4_000
    rows = np.random.default_rng(0).normal(size=(n, 64)).astype(np.float16)
    none = np.zeros(0, np.int64)
    crowd = CrowdedCluster(np.arange(n), np.ones(n, bool), rows)
    assert rules.cover(np.arange(n), none, none, np.zeros(0), 0.9, [crowd]).kept.all()
