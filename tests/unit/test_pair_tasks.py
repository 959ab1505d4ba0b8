"""Pair tasks cover all clusters and all pairs once, for any split."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from made_core.cluster import cluster_rows, pair_tasks
from made_core.cluster.pair_tasks import PairTask
from made_core.dedup import near_pairs
from made_core.stages import AssignOutput, PairsOutput
from made_core.types import FileRef
from tests.support import oracle


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(0, 2000), min_size=1, max_size=40), st.integers(0, 50))
@example([0, 0, 0], 4)
@example([5], 3)
@example([0, 9, 0, 0, 9, 0], 2)
def test_pack(sizes: list[int], tasks: int) -> None:
    """All clusters, in order, each once or in slices; none exceeds its share by more than a row's pairs."""
    found = pair_tasks.pack(np.array(sizes, np.int64), tasks)
    assert [c for s in found if s.part == 0 for c in range(s.start, s.stop)] == list(range(len(sizes)))
    limit = sum(n * n + n for n in sizes) / max(1, tasks)
    slices: dict[int, list[PairTask]] = {}
    for span in found:
        assert span.start < span.stop and PairTask.of(span.key) == span
        if span.parts == 1:
            assert sum(n * n + n for n in sizes[span.start : span.stop]) <= limit * (1 + 1e-12)
        else:
            assert span.stop == span.start + 1
            n = sizes[span.start]
            first, last = span.rows(n)
            cost = sum(n - i for i in range(first, last))
            assert cost <= limit / 2 + n + 1
            slices.setdefault(span.start, []).append(span)
    for some in slices.values():
        assert [s.part for s in some] == list(range(some[0].parts))
    assert len(found) <= max(1, 3 * tasks)
    assert len({span.key for span in found}) == len(found)


def test_pack_spreads() -> None:
    """Work for every worker, even with a single cluster."""
    assert len(pair_tasks.pack(np.full(64, 100), 16)) == 16
    assert pair_tasks.pack(np.array([100, 1, 1, 100]), 1) == [PairTask(0, 4)]
    cut = pair_tasks.pack(np.array([1, 100, 1, 1]), 2)
    assert [s.key for s in cut] == ["0-1", "1.0of2", "1.1of2", "2-4"]


def batches(count: int, size: int) -> list[AssignOutput]:
    """Batches of `size` bytes of rows."""
    file = FileRef("x", size, "", "")
    return [AssignOutput(1, file, file, file, file, 1, 0.0)] * count


@pytest.mark.parametrize(
    ("samples", "expected"), [(10_000, 1), (12_800_000, 11), (128_000_000, 78), (1_280_000_000, 715)]
)
def test_slices_are_as_long_as_blocks(samples: int, expected: int) -> None:
    """In batches of 160,000 rows of 1 KiB, k = sqrt(samples)."""
    k = math.isqrt(samples)
    some = batches(max(1, samples // 160_000), min(samples, 160_000) << 10)
    found = pair_tasks.number(np.full(k, samples // k), some)
    assert found == expected
    per_slice = sum(b.rows.size for b in some) // (found * len(some))
    dear = (samples // k) ** 2 * k / found > 15 * pair_tasks.COST
    assert found == 1 or dear or per_slice >= pair_tasks.SLICE


def test_short_slices_leave_enough_tasks() -> None:
    assert pair_tasks.number(np.full(1000, 30_000), batches(10_000, 1 << 20)) == pair_tasks.LEAST


@given(st.integers(0, 3000), st.integers(1, 60))
def test_slices_are_all_rows(n: int, parts: int) -> None:
    """Each row once, in order; the numbers of pairs differ by at most those of a row."""
    cuts = [PairTask(7, 8, part, parts).rows(n) for part in range(parts)]
    assert cuts[0][0] == 0 and cuts[-1][1] == n
    assert all(a[1] == b[0] for a, b in pairwise(cuts))
    counts = [sum(n - i for i in range(first, last)) for first, last in cuts]
    assert max(counts) <= n * (n + 1) / 2 / parts + n + 1


@settings(deadline=None, max_examples=25)
@given(
    st.integers(0, 2**32 - 1), st.integers(0, 50), st.sampled_from([1, 2, 3, 9]), st.sampled_from([1, 7, 64])
)
def test_slices_find_each_pair_once(seed: int, n: int, parts: int, block: int) -> None:
    """The same pairs as one unit, for any number of slices and any block size."""
    generator = np.random.default_rng(seed)
    rows = generator.normal(size=(4, 8))[generator.integers(0, 4, n)] + 0.2 * generator.normal(size=(n, 8))
    stored = oracle.unit(rows).astype(np.float16)
    members = np.zeros(n, cluster_rows.member_type(1))
    members["gid"] = generator.permutation(n)
    whole = [p for some in near_pairs.of_cluster(0, stored, members, 0.9, block) for p in some.tolist()]
    found = []
    for part in range(parts):
        some = PairTask(0, 1, part, parts).rows(n)
        for batch in near_pairs.of_cluster(0, stored, members, 0.9, block, some):
            found += batch.tolist()
    assert sorted(found) == sorted(whole) and len(set(found)) == len(found)


@pytest.mark.parametrize(
    ("counts", "dense", "expected"),
    [
        ([5, 4, 6, 3], [[], [], [], []], []),  # 10 pairs in two slices: as many as may be
        ([5, 5, 6, 3], [[], [], [], []], [2]),  # none of the slices has too many, together they have
        ([5, 11, 0, 3], [[], [2], [], []], [2]),  # one has
        ([5, 4, 6, 3], [[1], [], [], [4]], [1, 4]),  # whole clusters are marked by their own task
    ],
)
def test_crowded(counts: list[int], dense: list[list[int]], expected: list[int]) -> None:
    work = [PairTask(0, 2), PairTask(2, 3, 0, 2), PairTask(2, 3, 1, 2), PairTask(3, 5)]
    assert pair_tasks.crowded(work, counts, dense, np.full(5, 10)) == expected


def test_only_stored_pairs_are_counted(tmp_path: Path) -> None:
    """A crowded cluster has none in the file; where slices find that out together, theirs are left out."""
    generator = np.random.default_rng(3)
    alone, crowd = (
        (np.ones(8) + spread * generator.normal(size=(n, 8))).astype(np.float16)
        for n, spread in ((6, 0.05), (40, 0.001))
    )
    outputs, most = {}, 3
    for task in (PairTask(0, 1), PairTask(1, 2, 0, 2), PairTask(1, 2, 1, 2), PairTask(2, 3)):
        rows = alone if task.start == 0 else crowd
        members = np.zeros(len(rows), cluster_rows.member_type(1))
        members["gid"], members["probes"] = np.arange(len(rows)) + 100 * task.start, task.start
        writer = near_pairs.Writer(0.9, 16, 100 if task.parts > 1 else most, 0, lambda _: None)
        path = tmp_path / task.key
        with open(path, "wb") as file:
            writer.add(file, task.start, rows, members, task.rows(len(rows)))
        stored = int(writer.histogram.sum())
        assert path.stat().st_size == stored * near_pairs.PAIR.itemsize
        assert (stored == 0) == (task.start in writer.crowded)
        ref = FileRef(str(path), path.stat().st_size, "", "")
        histogram, dense = tuple(writer.histogram.tolist()), tuple(writer.crowded)
        outputs[task.key] = PairsOutput(writer.rows, ref, stored, histogram, dense, 0.9)
    found = pair_tasks.together(outputs, np.array([6, 40, 40]) * most)
    assert found.crowded == (1, 2)  # 1 by its slices together, 2 by itself
    assert found.files == (outputs["0-1"].pairs, outputs["2-3"].pairs)
    assert found.stored == sum(found.histogram) == outputs["0-1"].stored > 0
