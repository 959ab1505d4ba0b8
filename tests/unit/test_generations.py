"""Extending a corpus: later generations against the oracle, and the guarantee of the cover rule."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from made_core import filters
from made_core.cluster import cluster_rows
from made_core.cluster.drift import moved
from made_core.dedup import decide, order
from made_core.dedup.decisions import NO_SAMPLE, Decisions
from made_core.dedup.metadata_scan import scan
from made_core.reasons import EXACT_COPY, KEPT, NEAR_DUPLICATE
from made_core.recipe import Filters, Recipe
from made_core.recipe_dedup import Dedup
from tests.support import oracle
from tests.support.corpora import Core, Samples, clumped, copies, equal, one_uid, prepare, store, ties

FILTERS = Filters(min_side=16, min_words=2)
PROBES = 2


@dataclass(frozen=True)
class Generation:
    """A corpus so far and its decisions."""

    core: Core
    decided: Decisions
    expected: oracle.Outcome
    cuts: tuple[int, ...]  # where generations end


def values_of(samples: Samples, core: Core, dedup: Dedup, n: int) -> list[float]:
    """`easy`, and `largest`, from their definitions."""
    if dedup.keep == "largest":
        return [-samples.sides[i] * 64 if samples.readable[i] else 0 for i in range(n)]
    return [
        float(core.distance[core.identities.canonical[i]]) if samples.readable[i] else 0.0 for i in range(n)
    ]


def grown(
    folder: Path,
    samples: Samples,
    shards: Sequence[int],
    dedup: Dedup,
    every_eps: Sequence[float],
    k: int = 16,
) -> list[Generation]:
    """The shards of the samples by generation; `shards`: the number of new shards of each."""
    embedded, start = store(folder, samples), 0
    result: list[Generation] = []
    for number, (count, eps) in enumerate(zip(shards, every_eps, strict=True)):
        last = result[-1] if result else None
        core = prepare(
            folder / str(number),
            embedded[start : start + count],
            k,
            PROBES,
            2,
            3,
            16,
            last.core if last else None,
        )
        start += count
        recipe = Recipe(sources=("in",), output="out", dedup=dedup, filters=FILTERS)
        found = scan(core.corpus, core.identities.canonical, recipe)
        without = order.without_metadata(dedup, core.distance, core.identities.uids)
        values = found.values if without is None else without
        decided = decide.decide(
            core.identities, found.dropped, values, core.cluster, core.pairs, dedup, eps,
            earlier=last.decided if last else None,
        )  # fmt: skip
        n, cuts = core.corpus.samples, last.cuts if last else ()
        whole = np.where(np.array(samples.readable)[:n, None], samples.rows[:n], np.float16(1))
        expected = oracle.decide(
            samples.rows[:n], samples.images[:n], samples.uids[:n], samples.readable[:n],
            samples.filtered[:n], oracle.nearest(whole, core.centroids, PROBES),
            values_of(samples, core, dedup, n), eps, dedup.rule, last.expected if last else None, cuts,
        )  # fmt: skip
        result.append(Generation(core, decided, expected, (*cuts, n)))
    return result


@pytest.mark.parametrize("make", [clumped, ties, copies, equal, one_uid])
@pytest.mark.parametrize("rule", ["cover", "reference"])
@pytest.mark.parametrize(("shards", "keep"), [((3, 2), "easy"), ((1, 2, 2), "largest"), ((3, 1, 1), "easy")])
def test_each_generation_equals_the_oracle(
    make: object, rule: str, shards: tuple[int, ...], keep: str, tmp_path: Path
) -> None:
    assert callable(make)
    samples: Samples = make(4)
    every_eps = (0.125, 0.25, 0.0625)[: len(shards)]  # a wider eps does not drop earlier kept samples either
    last = None
    for now in grown(tmp_path, samples, shards, Dedup(keep=keep, rule=rule), every_eps):
        assert filters.names(now.decided.reason) == now.expected.reason
        for who, allowed in zip(
            now.decided.representative.tolist(), now.expected.representatives, strict=True
        ):
            assert who in (allowed or {NO_SAMPLE})
        if last:
            n = len(last.decided.reason)
            assert np.array_equal(now.decided.reason[:n], last.decided.reason)
            assert np.array_equal(now.decided.representative[:n], last.decided.representative)
            np.testing.assert_array_equal(now.decided.similarity[:n], last.decided.similarity)
            assert np.array_equal(now.core.identities.canonical[:n], last.core.identities.canonical)
        last = now


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("shards", [(5,), (3, 2), (1, 2, 2)])
def test_the_guarantee_of_cover(seed: int, shards: tuple[int, ...], tmp_path: Path) -> None:
    """In one run or in three: every removed duplicate has a kept sample within eps, no two compared kept
    samples are within eps, and kept samples stay."""
    samples, eps = clumped(seed), 0.125
    found = grown(tmp_path, samples, shards, Dedup(), [eps] * len(shards))
    core, decided = found[-1].core, found[-1].decided
    first = core.identities.canonical
    x = oracle.unit(np.where(first[:, None] >= 0, samples.rows[np.maximum(first, 0)], 1))
    probes = oracle.nearest(np.where(first[:, None] >= 0, samples.rows, 1), core.centroids, PROBES)
    may = oracle.compared([probes[max(0, f)] for f in first.tolist()])
    kept = np.flatnonzero(decided.reason == KEPT)
    score = oracle.products(x, x)
    assert not (may & (score > 1 - eps))[np.ix_(kept, kept)].any()
    duplicates = [NEAR_DUPLICATE.code, EXACT_COPY.code]
    removed = np.flatnonzero(np.isin(decided.reason, duplicates))
    assert len(removed)
    stands = decided.representative[removed]
    assert np.isin(stands, kept).all() and (score[removed, stands] > 1 - eps).all()
    for before, after in pairwise(found):
        stay = np.flatnonzero(before.decided.reason == KEPT)
        assert (after.decided.reason[stay] == KEPT).all()


def test_dense_clusters_of_an_earlier_generation(tmp_path: Path) -> None:
    """Pairs that were not stored are compared in the walk; earlier kept samples stay."""
    samples = clumped(2)
    dedup = Dedup(keep="easy")
    plain = grown(tmp_path / "plain", samples, (3, 2), dedup, (0.125, 0.125), k=1)[-1]
    core = plain.core
    with cluster_rows.gathered(core.batches, 0, 1) as clusters:
        recipe = Recipe(sources=("in",), output="out", dedup=dedup, filters=FILTERS)
        found = scan(core.corpus, core.identities.canonical, recipe)
        earlier = grown(tmp_path / "again", samples, (3,), dedup, (0.125,), k=1)[0].decided
        got = decide.decide(
            core.identities, found.dropped, core.distance, core.cluster, core.pairs[:0], dedup, 0.125,
            list(clusters), earlier=earlier,
        )  # fmt: skip
    assert got.reason.tolist() == plain.decided.reason.tolist()
    assert got.representative.tolist() == plain.decided.representative.tolist()


@pytest.mark.parametrize(
    ("trained", "new", "then", "now", "anew"),
    [
        (0.3, 0.3, 100, 150, False),
        (0.3, 0.35, 100, 150, False),
        (0.3, 0.37, 100, 150, True),
        (0.3, 0.3, 100, 401, True),
        (0.0, 0.0, 100, 110, False),
        (0.0, 0.1, 100, 110, True),
    ],
)
def test_drift(trained: float, new: float, then: int, now: int, anew: bool) -> None:
    found = moved(trained, new, then, now)
    assert found.train_anew is anew and found.growth == now / then


def test_a_generation_of_nothing_new(tmp_path: Path) -> None:
    """Its decisions equal the earlier ones."""
    one, two = grown(tmp_path, clumped(1), (5, 0), Dedup(), (0.125, 0.125))
    assert np.array_equal(one.decided.reason, two.decided.reason)
    assert np.array_equal(one.core.pairs, two.core.pairs)
