"""Near pairs equal the full float64 matrix at every block size; each pair once for any probes."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from made_core.cluster import cluster_rows
from made_core.dedup import candidates, near_pairs
from made_core.dedup.near_pairs import EXACT_CHUNK
from made_core.io import files
from made_core.vectors import cosine
from tests.support import oracle

BLOCKS = (1, 3, 64, 2048)
Rows = npt.NDArray[np.float16]


def clumped(seed: int, n: int, dim: int = 8, noise: float = 0.2) -> Rows:
    """Rows in clumps, stored as the encoder stores them: float16 of unit rows."""
    generator = np.random.default_rng(seed)
    centres = generator.normal(size=(5, dim))
    rows = centres[generator.integers(0, 5, n)] + noise * generator.normal(size=(n, dim))
    return oracle.unit(rows).astype(np.float16)


def signs(seed: int, n: int, dim: int = 16) -> Rows:
    """Rows of +-1: products of 16 (or 4^m) entries are exact in float64, so they tie."""
    generator = np.random.default_rng(seed)
    return np.where(generator.random((n, dim)) < 0.2, -1, 1).astype(np.float16)


def found(rows: Rows, bound: float, block: int, chunk: int = EXACT_CHUNK) -> dict[tuple[int, int], float]:
    """The pairs of `near`; fails if a pair is repeated."""
    result: dict[tuple[int, int], float] = {}
    for i, j, value in near_pairs.near(rows, bound, block, chunk=chunk):
        for a, b, v in zip(i.tolist(), j.tolist(), value.tolist(), strict=True):
            assert (a, b) not in result
            result[a, b] = v
    return result


def everywhere(rows: Rows) -> list[list[int]]:
    """One cluster with all rows."""
    return [[0]] * len(rows)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**32 - 1), st.integers(0, 36), st.sampled_from([0.3, 0.9, 0.98]))
def test_near_equals_the_full_matrix(seed: int, n: int, bound: float) -> None:
    """Each pair above the bound once, with its float64 product, at every block size."""
    rows = clumped(seed, n)
    expected = oracle.pairs(rows, everywhere(rows), bound)
    x = oracle.unit(rows)
    score = oracle.products(x, x)
    for block in BLOCKS:
        got = found(rows, bound, block)
        assert set(got) == expected
        assert all(abs(score[pair] - value) < 1e-14 for pair, value in got.items())


@pytest.mark.parametrize("seed", range(3))
def test_a_pair_at_the_bound_is_decided_by_float64(seed: int) -> None:
    """Bounds that are some pair's own product: float32 would decide about half of these wrongly."""
    rows = clumped(seed, 32, dim=24)
    i, j = np.triu_indices(32, 1)
    value = cosine(rows[i], rows[j])
    for at in np.sort(value)[-150::15].tolist():
        expected = {(int(a), int(b)) for a, b, v in zip(i, j, value, strict=True) if v > at}
        above = {(int(a), int(b)) for a, b, v in zip(i, j, value, strict=True) if v >= at}
        assert len(above) > len(expected)
        for block in (8, 20, 2048):
            assert set(found(rows, at, block)) == expected
            assert set(found(rows, float(np.nextafter(at, 0)), block)) == above


@pytest.mark.parametrize("bound", [0.5, 0.75, 0.875])
def test_exact_ties_at_the_bound_are_no_pairs(bound: float) -> None:
    """Products are exact sixteenths here; those equal to the bound are not above it."""
    rows = signs(7, 66)
    whole = rows.astype(np.int64) @ rows.T.astype(np.int64)
    i, j = np.triu_indices(66, 1)
    assert (whole[i, j] == 16 * bound).any()
    expected = {(a, b) for a, b in zip(i.tolist(), j.tolist(), strict=True) if whole[a, b] > 16 * bound}
    for block in BLOCKS:
        assert set(found(rows, bound, block)) == expected


@pytest.mark.parametrize("block", BLOCKS)
def test_block_size_does_not_change_a_bit(block: int) -> None:
    """Pairs and similarities are equal to the last bit."""
    rows = clumped(11, 70, dim=48)
    assert found(rows, 0.8, block) == found(rows, 0.8, 70)


@pytest.mark.parametrize("held", [1, 2, 3, 100])
@pytest.mark.parametrize("some, known", [(None, 0), ((10, 55), 0), (None, 23), ((5, 60), 23), ((30, 41), 23)])
def test_blocks_held_at_once_do_not_matter(
    monkeypatch: pytest.MonkeyPatch, held: int, some: tuple[int, int] | None, known: int
) -> None:
    """Of a slice, and of what an earlier run has not compared."""
    rows = clumped(13, 70)
    monkeypatch.setattr(candidates, "held", lambda dim, block: held)
    start, stop = some or (0, 70)
    expected = {
        (i, j) for i, j in oracle.pairs(rows, everywhere(rows), 0.8) if start <= i < stop and j >= known
    }
    got = [
        pair
        for i, j, _ in near_pairs.near(rows, 0.8, 8, some, known)
        for pair in zip(i.tolist(), j.tolist(), strict=True)
    ]
    assert len(got) == len(expected) and set(got) == expected


@pytest.mark.parametrize("chunk", [1, 7])
def test_the_chunk_of_exact_products_does_not_matter(chunk: int) -> None:
    """Pairs of a block that fill several chunks are all decided."""
    rows = clumped(12, 40)
    assert found(rows, 0.8, 64, chunk) == found(rows, 0.8, 64)


@pytest.mark.parametrize("block", BLOCKS)
def test_a_bound_of_almost_nothing(block: int) -> None:
    """Far below the margin of float32: still each pair once, and no row with itself."""
    rows = clumped(13, 30)
    assert set(found(rows, 1e-9, block)) == oracle.pairs(rows, everywhere(rows), 1e-9)


@pytest.mark.parametrize("n", [0, 1, 2])
@pytest.mark.parametrize("block", BLOCKS)
def test_few_rows(n: int, block: int) -> None:
    """Nothing, one row, two equal rows."""
    rows = np.repeat(clumped(1, 1), n, axis=0)
    assert set(found(rows, 0.9, block)) == ({(0, 1)} if n == 2 else set())
    members = np.zeros(n, cluster_rows.member_type(1))
    members["gid"] = np.arange(n)
    reported = list(near_pairs.of_cluster(0, rows, members, 0.9, block))
    assert sum(map(len, reported)) == (1 if n == 2 else 0)


def test_length_of_a_stored_row_does_not_matter() -> None:
    """float16 rows are unit only roughly: the similarity is of the rows normalised in float64."""
    rows = clumped(14, 2)
    stretched = np.array([rows[0], rows[1] * np.float16(4)])
    assert found(stretched, -1, 8) == found(rows, -1, 8)


def union(
    rows: Rows, gids: npt.NDArray[np.int64], probes: list[list[int]], k: int, bound: float, block: int
) -> list[tuple[int, int]]:
    """What all clusters report, as gids."""
    result: list[tuple[int, int]] = []
    for c in range(k):
        held = [r for r in range(len(rows)) if c in probes[r]]
        members = np.empty(len(held), cluster_rows.member_type(len(probes[0]) if probes else 1))
        members["gid"] = gids[held]
        members["probes"] = np.array([probes[r] for r in held], np.int32).reshape(members["probes"].shape)
        for part in near_pairs.of_cluster(c, rows[held], members, bound, block):
            result += zip(part["i"].tolist(), part["j"].tolist(), strict=True)
            assert (part["i"] < part["j"]).all()
    return result


@settings(deadline=None, max_examples=40)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(0, 40),
    st.sampled_from([1, 2, 4]),
    st.sampled_from([4, 6, 16]),
    st.sampled_from([1, 5, 64]),
)
def test_clusters_together_report_each_candidate_once(seed: int, n: int, p: int, k: int, block: int) -> None:
    """The union over clusters is the definition: home(i) in probes(j) or home(j) in probes(i)."""
    generator = np.random.default_rng(seed)
    rows = clumped(seed, n)
    gids = np.sort(generator.choice(1000, n, replace=False)) * 10**9
    probes = [generator.permutation(k)[:p].tolist() for _ in range(n)]
    got = union(rows, gids, probes, k, 0.8, block)
    expected = {(int(gids[i]), int(gids[j])) for i, j in oracle.pairs(rows, probes, 0.8)}
    assert len(got) == len(set(got))
    assert set(got) == expected


@pytest.mark.parametrize(
    ("left", "right", "reporter"),
    [
        ([0, 1], [0, 2], 0),  # one home
        ([0, 1], [0, 1], 0),  # one home, and both visit 1
        ([0, 1], [1, 0], 0),  # each visits the other: the lower cluster
        ([1, 0], [0, 1], 0),
        ([0, 2], [1, 0], 0),  # the right one visits the left one's home
        ([0, 1], [1, 2], 1),  # the left one visits the right one's home
        ([0, 2], [1, 2], None),  # both visit a third: no candidates
        ([0, 1], [2, 3], None),  # no shared cluster
    ],
)
def test_who_reports_a_pair(left: list[int], right: list[int], reporter: int | None) -> None:
    """Every way in which two rows can share clusters."""
    rows = np.repeat(clumped(2, 1), 2, axis=0)
    reporters = []
    for c in range(4):
        held = [r for r, p in enumerate((left, right)) if c in p]
        members = np.zeros(len(held), cluster_rows.member_type(2))
        members["gid"] = held
        members["probes"] = np.array([(left, right)[r] for r in held], np.int32).reshape(-1, 2)
        if sum(map(len, near_pairs.of_cluster(c, rows[held], members, 0.9, 8))):
            reporters.append(c)
    assert reporters == ([] if reporter is None else [reporter])


def test_gids_need_no_order() -> None:
    """Rows gathered from several batches are ordered by batch: still i < j."""
    rows = np.repeat(clumped(3, 1), 3, axis=0)
    members = np.zeros(3, cluster_rows.member_type(1))
    members["gid"] = [7, 2, 5]
    (part,) = near_pairs.of_cluster(0, rows, members, 0.9, 8)
    assert {(int(p["i"]), int(p["j"])) for p in part} == {(2, 7), (5, 7), (2, 5)}
    assert part["similarity"].tolist() == pytest.approx([1.0] * 3)


def test_read_returns_the_pairs_once(tmp_path: Path) -> None:
    every = np.zeros(600_000, near_pairs.PAIR)
    every["i"] = np.arange(len(every))
    cuts = np.split(every, [1, 1, 300_000])  # an empty file too
    refs = [files.put(str(tmp_path / f"{n}.pairs"), cut.tofile) for n, cut in enumerate(cuts)]
    tracemalloc.start()
    try:
        found = near_pairs.read(refs)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert np.array_equal(found, every) and found.flags.writeable
    assert peak < every.nbytes + (4 << 20)
    assert near_pairs.read([]).dtype == near_pairs.PAIR and len(near_pairs.read([])) == 0
