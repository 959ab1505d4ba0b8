"""Recall: counts equal the full matrix, and the interval has its nominal coverage."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from made_core.cluster import cluster_rows, kmeans
from made_core.dedup import pair_recall
from made_core.dedup.pair_recall import Images, Recall
from made_core.errors import DamagedFile
from made_core.output.summary import RecallFacts
from tests.support import oracle

EPS = 0.05


def planted(seed: int, n: int, k: int, probes: int, dim: int = 16) -> Images:
    """Clustered images, a third of them in groups of near-duplicates, many across borders."""
    generator = np.random.default_rng(seed)
    centres = generator.normal(size=(k, dim))
    rows = centres[generator.integers(0, k, n)] + 2 * generator.normal(size=(n, dim))
    heads = generator.choice(n, n // 3)
    rows[: n // 3] = rows[heads] + 0.5 * generator.normal(size=(n // 3, dim))
    stored = oracle.unit(rows).astype(np.float16)
    fitted = oracle.unit(centres).astype(np.float32)
    gids = np.sort(generator.choice(10 * n, n, replace=False))
    return Images(gids, stored, kmeans.assign(stored, fitted, probes))


def some(images: Images, which: npt.NDArray[np.int64]) -> Images:
    """A part of the images."""
    return Images(images.gids[which], images.rows[which], images.probes[which])


@pytest.mark.parametrize("probes", [1, 2, 3])
@pytest.mark.parametrize("block", [1, 7, 64, 2048])
def test_counts_equal_the_full_matrix(probes: int, block: int) -> None:
    """d and f of every query, for any block size and any split of the others."""
    images = planted(probes, 90 if block < 64 else 150, 8, 1)
    generator = np.random.default_rng(block)
    visits = np.array([generator.permutation(8)[:probes] for _ in images.gids], np.int32)
    images = Images(images.gids, images.rows, visits)
    x = oracle.unit(images.rows)
    near = oracle.products(x, x) > 1 - EPS
    np.fill_diagonal(near, False)
    met = near & oracle.compared(images.probes.tolist())
    drawn = np.arange(0, len(x), 3)
    expected = np.stack([near.sum(axis=1), met.sum(axis=1)], axis=1)[drawn]
    assert expected[:, 1].sum() < expected[:, 0].sum()
    queries = some(images, drawn)
    assert (pair_recall.count(queries, images, 1 - EPS, block) == expected).all()
    halves = [some(images, h) for h in np.array_split(np.arange(len(x)), [40])]
    assert (np.sum([pair_recall.count(queries, h, 1 - EPS, block) for h in halves], 0) == expected).all()


def test_all_queries_give_the_true_recall() -> None:
    """The interval is a point, and more probes lose fewer pairs."""
    shares = []
    for probes in (1, 2, 8):
        images = planted(5, 300, 8, probes)
        counts = pair_recall.count(images, images, 1 - EPS, 64)
        found = oracle.pairs(images.rows, images.probes.tolist(), 1 - EPS)
        every = oracle.pairs(images.rows, [[0]] * 300, 1 - EPS)
        measured = pair_recall.estimate(counts, 300)
        assert (measured.queries, measured.pairs, measured.found) == (300, 2 * len(every), 2 * len(found))
        assert measured.estimate == measured.low == measured.high == len(found) / len(every)
        shares.append(measured.estimate)
    assert shares[0] < shares[1] <= shares[2] == 1


def test_pairs_at_the_bound_are_decided_by_float64() -> None:
    """Bounds equal to a pair's similarity: that pair is not above it."""
    images = planted(6, 60, 4, 1)
    x = oracle.unit(images.rows)
    near = np.einsum("id,jd->ijd", x, x).sum(axis=2)
    np.fill_diagonal(near, -1)
    for bound in np.sort(near[near > 0.9])[::10].tolist():
        at = float(np.nextafter(bound, 2))
        below = pair_recall.count(images, images, bound - 1e-12, 32)[:, 0].sum()
        above = pair_recall.count(images, images, at + 1e-12, 32)[:, 0].sum()
        assert below == (near > bound - 1e-12).sum() and above == (near > at + 1e-12).sum() < below


def population(seed: int, n: int, missing: float, tail: float) -> npt.NDArray[np.int64]:
    """(n, 2) d, f: groups of Pareto sizes (tail; 0: pairs), a share of them cut in two by a border."""
    generator = np.random.default_rng(seed)
    counts, at = np.zeros((n, 2), np.int64), 0
    while at < n // 3:
        size = 2 if not tail else min(60, 2 + int(generator.pareto(tail)))
        cut = int(generator.integers(1, size)) if generator.random() < missing else size
        counts[at : at + size, 0] = size - 1
        counts[at : at + cut, 1] = cut - 1
        counts[at + cut : at + size, 1] = size - cut - 1
        at += size
    return counts


@pytest.mark.parametrize("share", [0.05, 0.5])
@pytest.mark.parametrize("missing", [0.0, 0.01, 0.2, 1.0])
@pytest.mark.parametrize("tail", [0, 1.5])
def test_the_interval_contains_the_true_recall(share: float, missing: float, tail: float) -> None:
    """In at least 93 of 100 draws: for pairs, and for groups whose pairs are found or missed together."""
    counts = population(3, 2000, missing, tail)
    truth = counts[:, 1].sum() / counts[:, 0].sum()
    generator = np.random.default_rng(17)
    inside, width = 0, 0.0
    for _ in range(100):
        measured = pair_recall.estimate(
            counts[generator.choice(2000, int(share * 2000), replace=False)], 2000
        )
        assert measured.estimate is not None and measured.low is not None and measured.high is not None
        assert 0 <= measured.low <= measured.estimate <= measured.high <= 1
        inside += measured.low <= truth <= measured.high
        width += (measured.high - measured.low) / 100
    assert inside >= 93
    assert width < 0.4


def test_from_uid_to_interval() -> None:
    """Drawn images counted against all images, from rows."""
    images = planted(9, 600, 12, 1)
    every = pair_recall.count(images, images, 1 - EPS, 256)
    truth = every[:, 1].sum() / every[:, 0].sum()
    generator = np.random.default_rng(1)
    inside = 0
    for _ in range(100):
        measured = pair_recall.estimate(every[generator.choice(600, 120, replace=False)], 600)
        inside += (
            measured.low is not None and measured.high is not None and measured.low <= truth <= measured.high
        )
    assert 0.1 < truth < 0.99 and inside >= 93


def test_all_found_is_not_certain() -> None:
    """Clopper-Pearson over queries with duplicates, not over pairs: 1 - .025^(1/m)."""
    counts = np.zeros((1000, 2), np.int64)
    counts[:100] = 7
    measured = pair_recall.estimate(counts, 10**9)
    assert (measured.with_duplicates, measured.pairs, measured.found, measured.estimate) == (100, 700, 700, 1)
    assert measured.low == pytest.approx(0.025 ** (1 / 100), abs=1e-6) and measured.high == 1
    more = pair_recall.estimate(counts, 1100)
    assert measured.low is not None and more.low is not None and measured.low < more.low < 1


def test_none_found() -> None:
    counts = np.zeros((50, 2), np.int64)
    counts[:20, 0] = 3
    measured = pair_recall.estimate(counts, 10**9)
    assert (measured.estimate, measured.low) == (0, 0)
    assert measured.high == pytest.approx(1 - 0.025 ** (1 / 20), abs=1e-6)


@pytest.mark.parametrize(("d", "f", "low", "high"), [(1, 1, 0.025, 1.0), (1, 0, 0.0, 0.975)])
def test_one_query_with_duplicates(d: int, f: int, low: float, high: float) -> None:
    measured = pair_recall.estimate(np.array([[d, f], [0, 0]]), 10**9)
    assert measured.low == pytest.approx(low, abs=1e-6) and measured.high == pytest.approx(high, abs=1e-6)
    half = pair_recall.estimate(np.array([[2, 1], [0, 0]]), 10**9)
    assert half.low is not None and half.high is not None and half.low < 0.1 and half.high > 0.9


def test_equal_misses_everywhere_are_not_certain() -> None:
    """No variance among the drawn images, but the interval has a width."""
    measured = pair_recall.estimate(np.array([[4, 3]] * 30), 10**6)
    assert (
        measured.low is not None and measured.high is not None and measured.low < 0.6 < 0.85 < measured.high
    )


def sentence(measured: Recall) -> str:
    """The sentence of the summary on a recall."""
    return RecallFacts(**asdict(measured), probes=1).sentence


@pytest.mark.parametrize("images", [40, 10**6])
def test_no_duplicates_at_all(images: int) -> None:
    measured = pair_recall.estimate(np.zeros((40, 2), np.int64), images)
    assert measured == Recall(40, 0, 0, 0, None, None, None)
    assert "the recall is unknown" in sentence(measured)


def test_one_cluster_compares_all() -> None:
    """k = 1, or as many probes as clusters: what the run reports without counting."""
    images = planted(11, 100, 1, 1)
    measured = pair_recall.estimate(pair_recall.count(images, images, 1 - EPS, 64), 100)
    assert measured.pairs > 0
    assert (measured.estimate, measured.low, measured.high) == (1, 1, 1)
    assert (pair_recall.WHOLE.estimate, pair_recall.WHOLE.low, pair_recall.WHOLE.high) == (1, 1, 1)
    assert sentence(pair_recall.WHOLE).startswith("Every image was compared")


def test_sentence() -> None:
    """Rounded, never up."""
    measured = Recall(1000, 90, 1200, 1199, 1199 / 1200, 0.9871, 0.99998)
    assert sentence(measured) == (
        "Found 1,199 of 1,200 duplicates of 1,000 sampled images: recall 0.999 "
        "(95 % interval 0.987 to > 0.999)"
    )
    exact = Recall(90, 9, 20, 18, 0.9, 0.9, 0.9)
    assert sentence(exact).endswith("18 of 20 duplicates of all 90 images: recall 0.900, exactly")


def below(x: float, a: float, b: float) -> float:
    """The share of the beta distribution below x, by the rectangle rule."""
    places = (np.arange(1_000_000) + 0.5) / 1_000_000
    density = np.exp((a - 1) * np.log(places) + (b - 1) * np.log1p(-places))
    return float(density[places < x].sum() / density.sum())


@pytest.mark.parametrize(("queries", "t"), [(6, 2.5706), (31, 2.0423), (1001, 1.9623)])
def test_interval_of_single_pairs(queries: int, t: float) -> None:
    """One pair a query, a third missed: Clopper and Pearson's with (n - 1) (z / t)^2 trials."""
    counts = np.array([[1, int(i % 3 > 0)] for i in range(queries)])
    told = pair_recall.estimate(counts, 10**9)
    assert told.estimate is not None and told.low is not None and told.high is not None
    trials = (queries - 1) * (1.95996 / t) ** 2
    hits = told.estimate * trials
    assert below(told.low, hits, trials - hits + 1) == pytest.approx(0.025, abs=1e-4)
    assert below(told.high, hits + 1, trials - hits) == pytest.approx(0.975, abs=1e-4)


def test_probes_are_those_stored(tmp_path: Path) -> None:
    """By gid over several batches; an image that is in no batch is an error."""
    images = planted(13, 200, 8, 3)
    batches = []
    for number, half in enumerate(np.array_split(np.arange(200), 2)):
        held = some(images, half)
        url = f"{tmp_path}/{number}"
        batches.append(
            cluster_rows.put(url, held.gids, held.rows, held.probes, np.zeros(100), k=8, samples=100)
        )
    wanted = np.arange(3, 200, 7)
    assert (pair_recall.probes_of(batches, images.gids[wanted]) == images.probes[wanted]).all()
    assert pair_recall.probes_of(batches, np.zeros(0, np.int64)).shape == (0, 3)
    with pytest.raises(DamagedFile):
        pair_recall.probes_of(batches[:1], images.gids)
