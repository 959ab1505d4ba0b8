"""The core from end to end, on corpora stored as real files, against the brute-force oracle."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest

from made_core import catalog, centroids, decisions, embeddings, groups, order, pairs, spans
from made_core import corpus as corpora
from made_core.data import FileRef, Reason, Shard
from made_core.filters import KEPT, REASONS
from made_core.recipe import Dedup, Filters, Recipe
from tests import oracle

EPS = (0.01, 0.03, 0.0625, 0.125, 0.25, 0.5)
EPS_MAX = 0.5
KEEPS = ("hard", "easy", "random", "largest", "column")
RULES = ("cover", "reference")
FILTERS = Filters(min_side=16, min_words=2)

Embedded = tuple[Shard, int, FileRef, FileRef]


@dataclass(frozen=True)
class Samples:
    """Samples in corpus order, as plain lists."""

    rows: npt.NDArray[np.float16]
    pictures: list[int]
    uids: list[str]
    readable: list[bool]
    filtered: list[str | None]
    sides: list[int]
    scores: list[float]
    shards: list[int]  # sizes

    @property
    def cuts(self) -> list[tuple[int, int]]:
        """Each shard's samples, as a range."""
        ends = np.cumsum(self.shards).tolist()
        return list(zip([0, *ends[:-1]], ends, strict=True))


def clumped(seed: int, n: int = 72, dim: int = 6) -> Samples:
    """Clumps, a chain, copies across shards, repeated uids, unreadable and filtered ones, loners."""
    generator = np.random.default_rng(seed)
    centres = generator.normal(size=(20, dim))
    rows = centres[generator.integers(0, 20, n)] + generator.choice([0.05, 0.2, 0.5], (n, 1)) * (
        generator.normal(size=(n, dim))
    )
    turn = np.deg2rad(9.0 * np.arange(8))
    rows[:8] = 0
    rows[:8, 0], rows[:8, 1] = np.cos(turn), np.sin(turn)
    rows[8:10] = rows[10:11]  # equal rows of different pictures
    mixed = generator.permutation(n)
    pictures, uids = list(range(n)), [f"u{generator.integers(10**6):06d}-{i}" for i in range(n)]
    for _ in range(10):
        a, b = generator.integers(0, n, 2).tolist()
        pictures[a] = pictures[b]  # its row differs: the class's first decides which counts
    for _ in range(6):
        a, b = generator.integers(0, n, 2).tolist()
        uids[a] = uids[b]
    readable = (generator.random(n) > 0.08).tolist()
    stored = oracle.unit(rows[mixed]).astype(np.float16)
    for i in np.flatnonzero(~np.array(readable)).tolist():
        stored[i] = generator.choice([0.0, np.nan])
    drawn = generator.choice(["", "small_side", "few_words"], n, p=[0.86, 0.07, 0.07]).tolist()
    reasons = [reason or None for reason in drawn]
    sides = [8 if r == "small_side" else int(generator.choice([16, 32, 64])) for r in reasons]
    scores = generator.choice([0.0, 0.5, 0.5, 1.0], n).tolist()
    return Samples(
        stored,
        pictures,
        uids,
        readable,
        reasons,
        sides,
        scores,
        [n // 3, 0, n // 2, 1, n - n // 3 - n // 2 - 1],
    )


def unique(seed: int) -> Samples:
    """The same without repeated uids: no result may depend on the order of shards."""
    samples = clumped(seed)
    return replace(samples, uids=[f"{uid}.{i}" for i, uid in enumerate(samples.uids)])


def ties(seed: int) -> Samples:
    """Rows of sixteen +-1: similarities are eighths, many exactly 1 - eps for the larger eps."""
    samples = clumped(seed, dim=16)
    signs = np.where(np.random.default_rng(seed).random(samples.rows.shape) < 0.12, -1, 1)
    return replace(samples, rows=signs.astype(np.float16))


def equal(seed: int) -> Samples:
    """One vector for all: all centroids are equal, so all clusters but the first are empty."""
    samples = clumped(seed)
    return replace(samples, rows=np.ones_like(samples.rows))


def copies(seed: int) -> Samples:
    """Three pictures only."""
    samples = clumped(seed)
    return replace(samples, pictures=[p % 3 for p in samples.pictures])


def one_uid(seed: int) -> Samples:
    """Every sample is the same upstream row."""
    samples = clumped(seed)
    return replace(samples, uids=["u"] * len(samples.uids))


def one_readable(seed: int) -> Samples:
    """Nothing to compare with; whole batches of shards without a row."""
    samples = clumped(seed)
    return replace(samples, readable=[i == 40 for i in range(len(samples.uids))])


def none_left(seed: int) -> Samples:
    """Every sample fails a filter."""
    samples = clumped(seed)
    n = len(samples.uids)
    return replace(samples, filtered=["small_side"] * n, sides=[8] * n)


def store(folder: Path, samples: Samples) -> list[Embedded]:
    """The samples as embedded shards."""
    result = []
    for number, (start, stop) in enumerate(samples.cuts):
        records: list[dict[str, Any]] = [
            {
                "row": i - start,
                "key": f"{i - start:09d}",
                "uid": samples.uids[i],
                "error": None if samples.readable[i] else "broken",
                "picture": bytes(15) + bytes([samples.pictures[i]]),
                "width": samples.sides[i] if samples.readable[i] else None,
                "height": 64 if samples.readable[i] else None,
                "caption": "one" if samples.filtered[i] == "few_words" else "one two",
                "json": json.dumps({"score": samples.scores[i]}),
            }
            for i in range(start, stop)
        ]
        table = pa.Table.from_pylist(records, schema=embeddings.SCHEMA)
        name = f"{number:05d}"
        refs = embeddings.put(str(folder / name), samples.rows[start:stop], table)
        result.append((Shard(name, f"{name}.tar", f"{number:032x}", 1, None), stop - start, *refs))
    return result


@dataclass(frozen=True)
class Core:
    """What the core knows before it decides; each step as the tasks will call it."""

    corpus: corpora.Corpus
    catalog: catalog.Catalog
    centroids: npt.NDArray[np.float32]
    cluster: npt.NDArray[np.int32]  # (n,) home of each sample's vector, -1: none
    distance: npt.NDArray[np.float64]
    pairs: pairs.Pairs


def prepare(
    folder: Path,
    embedded: Sequence[Embedded],
    k: int,
    probes: int,
    batch: int = 2,
    tasks: int = 3,
    block: int = 64,
) -> Core:
    """Catalog, fit, assign by batches of shards, pairs by ranges of clusters."""
    corpus = corpora.build(sorted(embedded, key=lambda e: e[0].id))
    built = catalog.build(corpus)
    k = centroids.choose_k(k, len(built.pictures))
    means = centroids.fit(corpus.gather(catalog.training_sample(built, 1000, 0)), k, 4, 0)
    batches = []
    for number in range(0, len(corpus.parts), batch):
        parts = corpus.parts[number : number + batch]
        gids = built.pictures[(built.pictures >= parts[0].start) & (built.pictures < parts[-1].stop)]
        rows = corpus.gather(gids)
        assignment = centroids.assign(rows, means, probes)
        url = str(folder / f"batch-{k}-{probes}-{batch}-{number}")
        batches.append(groups.Batch(*groups.put(url, gids, rows, assignment, k)))
    cluster, distance = groups.homes(batches, built.first)
    found = [np.zeros(0, pairs.PAIR)]
    for span in spans.pack(groups.sizes(batches), tasks):
        with groups.gathered(batches, span.start, span.stop) as clusters:
            for c in clusters:
                some = span.rows(len(c.members))
                found += pairs.of_cluster(c.id, c.rows, c.members, 1 - EPS_MAX, block, some)
    return Core(corpus, built, means, cluster, distance, np.concatenate(found))


def dedup_of(keep: str, rule: str = "cover") -> Dedup:
    """A keep rule; `column` by score."""
    return Dedup(keep=keep, rule=rule, seed=5, keep_column="score" if keep == "column" else None)


def decided(core: Core, dedup: Dedup, eps: float) -> decisions.Decisions:
    """The last step."""
    recipe = Recipe(sources=("in",), output="out", dedup=dedup, filters=FILTERS)
    dropped, values = decisions.survey(core.corpus, recipe)
    by_distance = order.of_distance(dedup, core.distance, core.catalog.uids)
    values = values if by_distance is None else by_distance
    return decisions.decide(core.catalog, dropped, values, core.cluster, core.pairs, dedup, eps)


def keep_values(samples: Samples, distances: Sequence[float], keep: str) -> list[float]:
    """The keep rule's values, from its definition."""
    first = oracle.firsts(samples.pictures, samples.uids, samples.readable)
    n = range(len(samples.uids))
    if keep in ("hard", "easy"):
        return [(-1 if keep == "hard" else 1) * distances[first[i]] for i in n]
    if keep == "random":
        key = (5).to_bytes(8, "little")
        digests = [hashlib.blake2b(u.encode(), digest_size=8, key=key).digest() for u in samples.uids]
        return [int.from_bytes(d, "little") for d in digests]
    if keep == "largest":
        return [-samples.sides[i] * 64 if samples.readable[i] else 0 for i in n]
    return [-score for score in samples.scores]


def check(
    samples: Samples, core: Core, probes: int, keeps: Sequence[str], every_eps: Sequence[float]
) -> None:
    """Every rule, keep and eps: the oracle's decisions, and accounts that balance."""
    whole = np.where(np.array(samples.readable)[:, None], samples.rows, np.float16(1))
    nearest = oracle.nearest(whole, core.centroids, probes)
    distances = oracle.distances(whole, core.centroids)
    for keep in keeps:
        values = keep_values(samples, distances, keep)
        for rule in RULES:
            for eps in every_eps:
                got = decided(core, dedup_of(keep, rule), eps)
                expected = oracle.decide(
                    samples.rows, samples.pictures, samples.uids, samples.readable, samples.filtered,
                    nearest, values, eps, rule,
                )  # fmt: skip
                names = [None if c == KEPT else REASONS[c].value for c in got.reason.tolist()]
                assert names == expected.reason
                for who, allowed in zip(got.representative.tolist(), expected.representatives, strict=True):
                    assert who in (allowed or {decisions.NOBODY})
                standing = got.representative[got.representative != decisions.NOBODY]
                assert (got.reason[standing] == KEPT).all()
                balanced(samples, got)


def balanced(samples: Samples, got: decisions.Decisions) -> None:
    """Each shard's account balances, and together they are the whole."""
    parts = [decisions.account(got.reason[a:b]) for a, b in samples.cuts]
    whole = decisions.total(parts)
    assert whole == decisions.account(got.reason)
    assert [p.samples for p in parts] == samples.shards
    assert whole.samples == len(samples.uids)
    assert whole.samples == whole.kept + sum(whole.dropped.values()) + whole.unreadable
    assert whole.unreadable == samples.readable.count(False)


@pytest.mark.parametrize(
    ("seed", "k", "probes"), [(0, 16, 1), (1, 16, 2), (2, 20, 2), (3, 24, 4), (4, 4, 2), (5, 1, 1)]
)
def test_the_core_is_the_oracle_s(seed: int, k: int, probes: int, tmp_path: Path) -> None:
    """Clumped corpora: both rules, six eps, two keep rules each (all five over the seeds)."""
    samples = clumped(seed)
    core = prepare(tmp_path, store(tmp_path, samples), k, probes)
    check(samples, core, probes, [KEEPS[seed % 5], KEEPS[(seed + 2) % 5]], EPS)


@pytest.mark.parametrize("keep", KEEPS)
def test_every_keep_rule(keep: str, tmp_path: Path) -> None:
    """In sixteen clusters and two probes."""
    samples = clumped(9)
    core = prepare(tmp_path, store(tmp_path, samples), 16, 2)
    check(samples, core, 2, [keep], [0.125])


@pytest.mark.parametrize(
    ("make", "k", "probes"),
    [
        (ties, 1, 1),
        (equal, 16, 1),
        (equal, 16, 2),
        (copies, 16, 2),
        (one_uid, 16, 1),
        (one_readable, 16, 2),
        (none_left, 16, 1),
        (unique, 1000, 1),  # as many clusters as pictures: all have one row
        (unique, 1000, 4),
    ],
)
def test_adversarial_corpora(make: Any, k: int, probes: int, tmp_path: Path) -> None:
    """Ties exactly at 1 - eps, empty clusters and clusters of one, next to nobody left."""
    samples = make(21)
    core = prepare(tmp_path, store(tmp_path, samples), k, probes, batch=1)
    check(samples, core, probes, ["hard", "column"], [0.03, 0.125, 0.25])


def test_the_corpora_are_not_easy(tmp_path: Path) -> None:
    """The rules differ, probes find more, and every Reason that can occur does."""
    samples = clumped(1)
    embedded = store(tmp_path, samples)
    one, two = (prepare(tmp_path, embedded, 16, probes) for probes in (1, 2))
    assert len(two.pairs) > len(one.pairs) > 50
    cover = decided(two, dedup_of("hard", "cover"), 0.125)
    reference = decided(two, dedup_of("hard", "reference"), 0.125)
    assert (cover.reason != reference.reason).any()
    found = {REASONS[c] for c in cover.reason.tolist() if c != KEPT}
    assert found == set(Reason) - {Reason.ASPECT_RATIO, Reason.FEW_CHARS}
    at = ties(21)
    score = at.rows.astype(int) @ at.rows.T.astype(int)
    assert (score == 16 * 0.75).any()


@pytest.mark.parametrize("rule", RULES)
def test_how_the_work_is_cut_changes_nothing(rule: str, tmp_path: Path) -> None:
    """Embedded in another order, other batches, tasks and blocks, pairs in another order."""
    samples = clumped(6)
    embedded = store(tmp_path, samples)
    plain = prepare(tmp_path, embedded, 16, 2)
    expected = decided(plain, dedup_of("hard", rule), 0.125)
    for batch, tasks, block in ((1, 1, 1), (3, 50, 7), (99, 4, 2048)):
        other = prepare(tmp_path, embedded[::-1], 16, 2, batch, tasks, block)
        assert np.array_equal(np.sort(other.pairs), np.sort(plain.pairs))
        shuffled = replace(other, pairs=np.random.default_rng(batch).permutation(other.pairs))
        got = decided(shuffled, dedup_of("hard", rule), 0.125)
        assert got.reason.tolist() == expected.reason.tolist()
        assert got.representative.tolist() == expected.representative.tolist()


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("keep", KEEPS)
def test_the_order_of_shards_changes_nothing(rule: str, keep: str, tmp_path: Path) -> None:
    """Where uids are unique, a sample's fate depends on no gid, so on no shard's name."""
    samples = unique(7)
    embedded = store(tmp_path, samples)
    fates = []
    for names in ("01234", "42013"):
        renamed = [(replace(e[0], id=name), *e[1:]) for e, name in zip(embedded, names, strict=True)]
        core = prepare(tmp_path / names, renamed, 16, 2)
        got = decided(core, dedup_of(keep, rule), 0.125)
        uids = core.catalog.uids.tolist()
        fates.append({
            uid: (reason, None if who == decisions.NOBODY else uids[who])
            for uid, reason, who in zip(uids, got.reason.tolist(), got.representative.tolist(), strict=True)
        })  # fmt: skip
    assert fates[0] == fates[1]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("n", [0, 1])
def test_next_to_nothing(rule: str, n: int) -> None:
    """No sample, one sample."""
    built = catalog.Catalog(np.array([b"a"] * n, "S1"), np.arange(n))
    got = decisions.decide(
        built, np.full(n, KEPT, np.int8), np.zeros(n), np.zeros(n, np.int32), np.zeros(0, pairs.PAIR),
        dedup_of("hard", rule), 0.1,
    )  # fmt: skip
    assert got.reason.tolist() == [KEPT] * n
    assert got.representative.tolist() == list(range(n))
    assert decisions.account(got.reason).kept == n
    recipe = Recipe(sources=("in",), output="out")
    codes, values = decisions.survey(corpora.build([]), recipe)
    assert len(codes) == len(values) == 0
    assert decisions.total([]).samples == 0


def fate(
    uids: str, pictures: Sequence[int], dropped: Sequence[Reason | None], near: Sequence[tuple[int, int]] = ()
) -> list[tuple[str | None, int]]:
    """Samples in walking order; `near` names firsts."""
    names = np.array([u.encode() for u in uids])
    digests = np.array([[p, 0] for p in pictures], np.uint64)
    readable = np.array([d is not Reason.UNREADABLE for d in dropped])
    built = catalog.Catalog(names, catalog.firsts(names, digests, readable))
    codes = np.array([KEPT if d is None else REASONS.index(d) for d in dropped], np.int8)
    found = np.array([(i, j, 0.99) for i, j in near], pairs.PAIR)
    n = len(uids)
    got = decisions.decide(built, codes, np.arange(n), np.zeros(n, np.int32), found, dedup_of("hard"), 0.02)
    reasons = [None if c == KEPT else REASONS[c].value for c in got.reason.tolist()]
    return list(zip(reasons, got.representative.tolist(), strict=True))


def test_a_filtered_sample_represents_nobody() -> None:
    """Its copy and its near one stay; itself it is represented by nobody."""
    small = Reason.SMALL_SIDE
    assert fate("abc", [0, 0, 1], [small, None, None], [(0, 2)]) == [
        ("small_side", -1), (None, 1), ("near_duplicate", 1),
    ]  # fmt: skip
    assert fate("ab", [0, 1], [small, None], [(0, 1)]) == [("small_side", -1), (None, 1)]


def test_repeated_uids() -> None:
    """The first by gid stays; a later one has its fate, even where the first is filtered."""
    assert fate("aab", [0, 1, 1], [None, None, None]) == [(None, 0), ("repeated_uid", 0), (None, 2)]
    assert fate("aa", [0, 1], [Reason.FEW_WORDS, None]) == [("few_words", -1), ("repeated_uid", -1)]
    assert fate("aa", [0, 1], [Reason.UNREADABLE, None]) == [("unreadable", -1), (None, 1)]
    assert fate("baba", [0, 1, 2, 3], [None] * 4, [(0, 1)])[2:] == [("repeated_uid", 0), ("repeated_uid", 0)]


def test_a_copy_of_a_near_duplicate() -> None:
    """Who stands for a picture stands for its copies."""
    assert fate("abcd", [0, 1, 1, 0], [None] * 4, [(0, 1)]) == [
        (None, 0), ("near_duplicate", 0), ("exact_copy", 0), ("exact_copy", 0),
    ]  # fmt: skip


def test_table(tmp_path: Path) -> None:
    """A row for every sample, with nulls where there is nothing to say."""
    samples = clumped(8)
    part = corpora.build(store(tmp_path, samples)).parts[1]
    n = part.samples
    held = slice(part.start, part.stop)
    reason = np.array([KEPT, REASONS.index(Reason.NEAR_DUPLICATE), 0] * n, np.int8)[:n]
    built = decisions.table(
        part,
        decisions.Columns(
            reason=reason,
            represented_by=[None, "someone", None] * (n // 3) + [None] * (n % 3),
            similarity=np.array([np.nan, 0.99, np.nan] * n)[:n],
            cluster=np.array([3, 4, -1] * n, np.int32)[:n],
            output_shard=["00000", None, None] * (n // 3) + [None] * (n % 3),
            output_key=["000000000", None, None] * (n // 3) + [None] * (n % 3),
        ),
    )
    assert built.schema == decisions.SCHEMA
    assert built["uid"].to_pylist() == samples.uids[held]
    assert built["row"].to_pylist() == list(range(n))
    assert set(built["shard"].to_pylist()) == {"00002"}
    first = {name: built[name].to_pylist()[:3] for name in built.column_names}
    assert first["kept"] == [True, False, False]
    assert first["reason"] == [None, "near_duplicate", "unreadable"]
    assert first["represented_by"] == [None, "someone", None]
    assert first["similarity"] == [None, 0.99, None]
    assert first["cluster"] == [3, 4, None]
    assert first["output_shard"] == ["00000", None, None]
    assert first["output_key"] == ["000000000", None, None]
