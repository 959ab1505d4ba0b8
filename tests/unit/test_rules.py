"""Both rules against the oracle, on graphs, on planted chains, and on ties at the bound."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from made_core.dedup import rules
from tests.support import oracle

EPS = (0.001, 0.02, 0.05, 0.1, 0.3, 0.7)
Matrix = npt.NDArray[np.float64]


def edges(score: Matrix) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], Matrix]:
    """Every pair once, as `resolve` expects them."""
    i, j = np.triu_indices(len(score), 1)
    return i, j, score[i, j]


def ranks(walk: list[int]) -> npt.NDArray[np.int64]:
    """Each node's position in the walk."""
    result = np.empty(len(walk), np.int64)
    result[walk] = np.arange(len(walk))
    return result


def everywhere(n: int) -> npt.NDArray[np.bool_]:
    """All pairs are compared."""
    return ~np.eye(n, dtype=bool)


def check(resolved: rules.Resolved, expected: dict[int, set[int]]) -> None:
    """Checks that the outcome equals the oracle's and each representative is kept."""
    assert resolved.kept.tolist() == [expected[i] == {i} for i in range(len(expected))]
    for i, who in enumerate(resolved.representative.tolist()):
        assert who in expected[i]
    assert resolved.kept[resolved.representative].all()


def angles(*degrees: float) -> Matrix:
    """The similarities of unit vectors in a plane."""
    radians = np.deg2rad(np.array(degrees))
    result: Matrix = np.cos(radians[:, None] - radians[None, :])
    return result


@st.composite
def graphs(draw: st.DrawFn) -> tuple[Matrix, list[int], list[int]]:
    """(similarities in sixteenths, so ties abound; a walk; clusters)."""
    n = draw(st.integers(0, 24))
    score = np.eye(n)
    levels = draw(st.lists(st.integers(0, 16), min_size=n * (n - 1) // 2, max_size=n * (n - 1) // 2))
    i, j = np.triu_indices(n, 1)
    score[i, j] = score[j, i] = np.array(levels) / 16
    walk = draw(st.permutations(range(n)))
    clusters = draw(st.lists(st.integers(0, draw(st.sampled_from([1, 3, 16]))), min_size=n, max_size=n))
    return score, list(walk), clusters


@settings(deadline=None, max_examples=80)
@given(graphs(), st.integers(1, 15))
def test_both_rules_equal_the_oracle(graph: tuple[Matrix, list[int], list[int]], level: int) -> None:
    """On random graphs full of ties, some exactly at the bound."""
    score, walk, clusters = graph
    bound = level / 16
    i, j, value = edges(score)
    check(
        rules.cover(ranks(walk), i, j, value, bound),
        oracle.cover(score, everywhere(len(score)), walk, bound),
    )
    check(
        rules.reference(ranks(walk), np.array(clusters, np.int64), i, j, value, bound),
        oracle.reference(score, clusters, walk, bound),
    )


@settings(deadline=None, max_examples=40)
@given(graphs(), st.integers(1, 15), st.integers(0, 2**32 - 1))
def test_the_order_of_pairs_and_nodes_is_irrelevant(
    graph: tuple[Matrix, list[int], list[int]], level: int, seed: int
) -> None:
    """Pairs shuffled and swapped, nodes renumbered: the same nodes stay with the same representatives."""
    score, walk, clusters = graph
    bound, n = level / 16, len(score)
    generator = np.random.default_rng(seed)
    rank, cluster = ranks(walk), np.array(clusters, np.int64)
    i, j, value = edges(score)
    shuffle = generator.permutation(len(i))
    turn = generator.random(len(i)) < 0.5
    i2, j2 = np.where(turn, j, i)[shuffle], np.where(turn, i, j)[shuffle]
    new = generator.permutation(n)  # node -> its new number
    for rule in ("cover", "reference"):
        extra = () if rule == "cover" else (cluster,)
        extra2 = () if rule == "cover" else (cluster[np.argsort(new)],)
        run = getattr(rules, rule)
        plain = run(rank, *extra, i, j, value, bound).representative
        shuffled = run(rank, *extra, i2, j2, value[shuffle], bound).representative
        renamed = run(rank[np.argsort(new)], *extra2, new[i2], new[j2], value[shuffle], bound)
        assert shuffled.tolist() == plain.tolist()
        assert renamed.representative[new].tolist() == new[plain].tolist()


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32 - 1), st.sampled_from(EPS), st.sampled_from(["hard", "easy"]))
def test_vectors_in_many_clusters(seed: int, eps: float, keep: str) -> None:
    """k >= 16, six eps, hard and easy, on clumped vectors: the oracle's decisions, the rule's guarantee."""
    generator = np.random.default_rng(seed)
    centres = generator.normal(size=(18, 6))
    rows = (centres[generator.integers(0, 18, 70)] + 0.15 * generator.normal(size=(70, 6))).astype(np.float16)
    homes = [p[0] for p in oracle.nearest(rows, centres, 1)]
    distance = oracle.distances(rows, centres)
    walk = sorted(range(70), key=lambda i: (-distance[i] if keep == "hard" else distance[i], i))
    x = oracle.unit(rows)
    score, bound = oracle.products(x, x), 1 - eps
    i, j, value = edges(score)
    rank = ranks(walk)
    kept = rules.cover(rank, i, j, value, bound)
    check(kept, oracle.cover(score, everywhere(70), walk, bound))
    for n, who in enumerate(kept.representative.tolist()):
        if who != n:
            nearby = [m for m in range(70) if kept.kept[m] and rank[m] < rank[n]]
            assert score[n, who] > bound
            assert score[n, who] == max(score[n, m] for m in nearby)
    left = np.flatnonzero(kept.kept)
    assert (score[np.ix_(left, left)] - np.eye(len(left)) <= bound).all()
    check(
        rules.reference(rank, np.array(homes, np.int64), i, j, value, bound),
        oracle.reference(score, homes, walk, bound),
    )


@pytest.mark.parametrize(
    ("walk", "cover", "reference"),
    [
        ([0, 1, 2], [0, 0, 2], [0, 0, 0]),  # 10 is removed for 0; 20 for 10, which is not kept
        ([2, 1, 0], [0, 2, 2], [2, 2, 2]),
        ([1, 0, 2], [1, 1, 1], [1, 1, 1]),
        ([1, 2, 0], [1, 1, 1], [1, 1, 1]),
        ([0, 2, 1], [0, 0, 2], [0, 0, 2]),  # 10 is as near to 0 as to 20: the earlier represents it
        ([2, 0, 1], [0, 2, 2], [0, 2, 2]),
    ],
)
def test_a_chain_of_three(walk: list[int], cover: list[int], reference: list[int]) -> None:
    """0, 10 and 20 degrees, eps .02: only neighbours are near; the rules differ on the last link."""
    score = np.round(angles(0, 10, 20), 9)
    i, j, value = edges(score)
    one = np.zeros(3, np.int64)
    assert rules.cover(ranks(walk), i, j, value, 0.98).representative.tolist() == cover
    assert rules.reference(ranks(walk), one, i, j, value, 0.98).representative.tolist() == reference


@pytest.mark.parametrize("n", [1, 2, 9, 30])
def test_a_long_chain(n: int) -> None:
    """Walked end to end, the reference rule keeps one of a chain, the cover rule every second."""
    score = np.round(angles(*(10.0 * i for i in range(n))), 9)
    i, j, value = edges(score)
    rank = np.arange(n)
    kept = rules.cover(rank, i, j, value, 0.98)
    assert np.flatnonzero(kept.kept).tolist() == list(range(0, n, 2))
    assert kept.representative.tolist() == [m - m % 2 for m in range(n)]
    reference = rules.reference(rank, np.zeros(n, np.int64), i, j, value, 0.98)
    assert reference.representative.tolist() == [0] * n


def test_a_chain_across_clusters() -> None:
    """The cover rule uses pairs across clusters, the reference rule only those inside one."""
    i, j = np.array([0, 1, 2, 3]), np.array([1, 2, 3, 4])
    value = np.full(4, 0.99)
    cluster = np.array([0, 0, 1, 1, 0])
    rank = np.arange(5)
    assert rules.cover(rank, i, j, value, 0.98).representative.tolist() == [0, 0, 2, 2, 4]
    reference = rules.reference(rank, cluster, i, j, value, 0.98)
    assert reference.representative.tolist() == [0, 0, 2, 2, 4]
    # 1 is removed for 0 of another cluster; 2 then stays, although 1 was before it.
    cover = rules.cover(rank, i, j, value, 0.98)
    across = rules.reference(rank, np.array([0, 1, 1, 1, 1]), i, j, value, 0.98)
    assert cover.kept.tolist() == [True, False, True, False, True]
    assert across.representative.tolist() == [0, 1, 1, 1, 1]


def test_a_representative_removed_by_another_cluster() -> None:
    """Decided by cluster, 1 would remove 2; but 0 of another cluster removes 1, so 2 stays."""
    i, j, value = np.array([0, 1]), np.array([1, 2]), np.array([0.99, 0.99])
    resolved = rules.cover(np.array([0, 1, 2]), i, j, value, 0.98)
    assert resolved.representative.tolist() == [0, 0, 2]


@pytest.mark.parametrize("eps", [0.25, 0.125, 0.5])
def test_a_pair_exactly_at_the_bound_stays(eps: float) -> None:
    """Rows of 16 entries +-1: their products are exact sixteenths. At 1 - eps: kept; above: not."""
    rows = np.ones((2, 16), np.float16)
    for flips, gone in ((round(8 * eps), False), (round(8 * eps) - 1, True)):
        rows[1] = [-1] * flips + [1] * (16 - flips)
        x = oracle.unit(rows)
        score = oracle.products(x, x)
        assert bool(score[0, 1] > 1 - eps) is gone
        assert bool(score[0, 1] == 1 - eps) is not gone
        i, j, value = edges(score)
        one, rank = np.zeros(2, np.int64), np.arange(2)
        assert (not rules.cover(rank, i, j, value, 1 - eps).kept[1]) is gone
        assert (not rules.reference(rank, one, i, j, value, 1 - eps).kept[1]) is gone


@pytest.mark.parametrize("ulps", [-1, 0, 1])
def test_the_bound_is_sharp_to_the_last_bit(ulps: int) -> None:
    """One float64 step above the bound is above it."""
    bound = 1 - 0.02
    value = np.array([math.nextafter(bound, 2.0 * ulps) if ulps else bound])
    one, zero, rank = np.array([1]), np.array([0]), np.arange(2)
    assert rules.cover(rank, zero, one, value, bound).kept[1] == (ulps <= 0)
    cluster = np.zeros(2, np.int64)
    assert rules.reference(rank, cluster, zero, one, value, bound).kept[1] == (ulps <= 0)


def test_equally_near_representatives_go_by_rank() -> None:
    """Of two equally similar kept nodes, the earlier in the walk represents, whatever its number."""
    i, j, value = np.array([0, 1]), np.array([2, 2]), np.array([0.9, 0.9])
    for rank, first in (([0, 1, 2], 0), ([1, 0, 2], 1)):
        resolved = rules.cover(np.array(rank), i, j, value, 0.5)
        assert resolved.representative.tolist() == [0, 1, first]


@pytest.mark.parametrize("n", [0, 1, 5])
def test_without_pairs_all_stay(n: int) -> None:
    """No pairs at all, and none above the bound."""
    none, rank = np.zeros(0, np.int64), np.arange(n)
    cluster = np.zeros(n, np.int64)
    assert rules.cover(rank, none, none, np.zeros(0), 0.9).kept.all()
    assert rules.reference(rank, cluster, none, none, np.zeros(0), 0.9).kept.all()
    if n > 1:
        low = (np.array([0]), np.array([1]), np.array([0.5]))
        assert rules.cover(rank, *low, 0.9).kept.all()
        assert rules.reference(rank, cluster, *low, 0.9).kept.all()


def test_a_chain_of_the_removed_ends_at_a_kept_one() -> None:
    """Reference: 3's only neighbour is 2, 2's is 1, both removed: 0 represents all."""
    i, j = np.array([2, 0, 1]), np.array([3, 1, 2])
    resolved = rules.reference(np.arange(4), np.zeros(4, np.int64), i, j, np.full(3, 0.9), 0.5)
    assert resolved.representative.tolist() == [0, 0, 0, 0]
