"""The core end to end, on corpora stored as files, against the brute-force oracle."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from made_core import filters
from made_core.corpus import corpus as corpora
from made_core.corpus import identity
from made_core.dedup import decide, decisions, near_pairs, order
from made_core.dedup.decisions import NO_SAMPLE
from made_core.dedup.metadata_scan import scan
from made_core.filters import min_side, min_words
from made_core.output import accounts, decision_tables
from made_core.reasons import BUILTIN, KEPT, NEAR_DUPLICATE, PLACEHOLDER, UNREADABLE, Reason
from made_core.recipe import Filters, Recipe
from made_core.recipe_dedup import Dedup
from tests.support import oracle
from tests.support.corpora import (
    Core,
    Samples,
    clumped,
    copies,
    equal,
    none_left,
    one_readable,
    one_uid,
    prepare,
    store,
    ties,
    unique,
)

EPS = (0.01, 0.03, 0.0625, 0.125, 0.25, 0.5)
KEEPS = ("hard", "easy", "random", "largest", "clip_score", "earliest", "column")
RULES = ("cover", "reference")
FILTERS = Filters(min_side=16, min_words=2)


def dedup_of(keep: str, rule: str = "cover") -> Dedup:
    """A keep rule; `column` by score."""
    return Dedup(keep=keep, rule=rule, seed=5, keep_column="score" if keep == "column" else None)


def decided(core: Core, dedup: Dedup, eps: float) -> decisions.Decisions:
    """The last step."""
    recipe = Recipe(sources=("in",), output="out", dedup=dedup, filters=FILTERS)
    found = scan(core.corpus, core.identities.canonical, recipe)
    values = order.values(dedup, found.values, core.distance, core.identities.uids)
    return decide.decide(core.identities, found.dropped, values, core.cluster, core.pairs, dedup, eps)


def keep_values(samples: Samples, distances: Sequence[float], keep: str) -> list[Any]:
    """The keep rule's values, from its definition."""
    first = oracle.canonicals(samples.images, samples.uids, samples.readable)
    n = range(len(samples.uids))
    if keep in ("hard", "easy"):
        return [(-1 if keep == "hard" else 1) * distances[first[i]] for i in n]
    if keep == "random":
        key = (5).to_bytes(8, "little")
        digests = [hashlib.blake2b(u.encode(), digest_size=8, key=key).digest() for u in samples.uids]
        return [int.from_bytes(d, "little") for d in digests]
    if keep == "largest":
        sizes = [-samples.sides[i] * 64 if samples.readable[i] else 0 for i in n]
        return [(sizes[i], distances[first[i]] if samples.readable[i] else 0) for i in n]
    if keep == "earliest":
        return list(n)
    return [-score for score in samples.scores]


def check(
    samples: Samples, core: Core, probes: int, keeps: Sequence[str], every_eps: Sequence[float]
) -> None:
    """Every rule, keep and eps: the oracle's decisions and consistent accounts."""
    whole = np.where(np.array(samples.readable)[:, None], samples.rows, np.float16(1))
    nearest = oracle.nearest(whole, core.centroids, probes)
    distances = oracle.distances(whole, core.centroids)
    for keep in keeps:
        values = keep_values(samples, distances, keep)
        for rule in RULES:
            for eps in every_eps:
                got = decided(core, dedup_of(keep, rule), eps)
                expected = oracle.decide(
                    samples.rows, samples.images, samples.uids, samples.readable, samples.filtered,
                    nearest, values, eps, rule,
                )  # fmt: skip
                assert filters.names(got.reason) == expected.reason
                for who, allowed in zip(got.representative.tolist(), expected.representatives, strict=True):
                    assert who in (allowed or {NO_SAMPLE})
                standing = got.representative[got.representative != NO_SAMPLE]
                assert (got.reason[standing] == KEPT).all()
                balanced(samples, got)


def balanced(samples: Samples, got: decisions.Decisions) -> None:
    """The account of each shard is consistent, and their sum is the total."""
    parts = [accounts.account(got.reason[a:b]) for a, b in samples.cuts]
    whole = accounts.total(parts)
    assert whole == accounts.account(got.reason)
    assert [p.samples for p in parts] == samples.shards
    assert whole.samples == len(samples.uids)
    assert whole.samples == whole.kept + sum(whole.dropped.values()) + whole.unreadable
    assert whole.unreadable == samples.readable.count(False)


@pytest.mark.parametrize(
    ("seed", "k", "probes"), [(0, 16, 1), (1, 16, 2), (2, 20, 2), (3, 24, 4), (4, 4, 2), (5, 1, 1)]
)
def test_the_core_equals_the_oracle(seed: int, k: int, probes: int, tmp_path: Path) -> None:
    """Clumped corpora: both rules, six eps, two keep rules each (all over the seeds)."""
    samples = clumped(seed)
    core = prepare(tmp_path, store(tmp_path, samples), k, probes)
    check(samples, core, probes, [KEEPS[seed % 7], KEEPS[(seed + 3) % 7]], EPS)


@pytest.mark.parametrize("keep", KEEPS)
def test_every_keep_rule(keep: str, tmp_path: Path) -> None:
    """With sixteen clusters and two probes."""
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
        (unique, 1000, 1),  # as many clusters as images: all have one row
        (unique, 1000, 4),
    ],
)
def test_adversarial_corpora(make: Any, k: int, probes: int, tmp_path: Path) -> None:
    """Ties exactly at 1 - eps, empty clusters and clusters of one, and almost no samples."""
    samples = make(21)
    core = prepare(tmp_path, store(tmp_path, samples), k, probes, batch=1)
    check(samples, core, probes, ["hard", "column"], [0.03, 0.125, 0.25])


def test_the_corpora_are_not_easy(tmp_path: Path) -> None:
    """The rules differ, more probes find more, and every possible Reason occurs."""
    samples = clumped(1)
    embedded = store(tmp_path, samples)
    one, two = (prepare(tmp_path, embedded, 16, probes) for probes in (1, 2))
    assert len(two.pairs) > len(one.pairs) > 50
    cover = decided(two, dedup_of("hard", "cover"), 0.125)
    reference = decided(two, dedup_of("hard", "reference"), 0.125)
    assert (cover.reason != reference.reason).any()
    found = {filters.by_code(c) for c in cover.reason.tolist() if c != KEPT}
    assert found == {*BUILTIN, min_side.FILTER.reason, min_words.FILTER.reason} - {PLACEHOLDER}
    at = ties(21)
    score = at.rows.astype(int) @ at.rows.T.astype(int)
    assert (score == 16 * 0.75).any()


@pytest.mark.parametrize("rule", RULES)
def test_how_the_work_is_split_changes_nothing(rule: str, tmp_path: Path) -> None:
    """Another order of embedding, other batches, tasks and blocks, another order of pairs."""
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
@pytest.mark.parametrize("keep", [keep for keep in KEEPS if keep != "earliest"])
def test_the_order_of_shards_changes_nothing(rule: str, keep: str, tmp_path: Path) -> None:
    """With unique uids a decision depends on no gid, and so on no shard's name."""
    samples = unique(7)
    embedded = store(tmp_path, samples)
    fates = []
    for names in ("01234", "42013"):
        renamed = [
            replace(part, shard=replace(part.shard, id=name))
            for part, name in zip(embedded, names, strict=True)
        ]
        core = prepare(tmp_path / names, renamed, 16, 2)
        got = decided(core, dedup_of(keep, rule), 0.125)
        uids = core.identities.uids.tolist()
        fates.append({
            uid: (reason, None if who == NO_SAMPLE else uids[who])
            for uid, reason, who in zip(uids, got.reason.tolist(), got.representative.tolist(), strict=True)
        })  # fmt: skip
    assert fates[0] == fates[1]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("n", [0, 1])
def test_almost_nothing(rule: str, n: int) -> None:
    """No sample, one sample."""
    built = identity.Identities(np.array([b"a"] * n, "S1"), np.arange(n))
    got = decide.decide(
        built, np.full(n, KEPT, np.int8), np.zeros(n), np.zeros(n, np.int32), np.zeros(0, near_pairs.PAIR),
        dedup_of("hard", rule), 0.1,
    )  # fmt: skip
    assert got.reason.tolist() == [KEPT] * n
    assert got.representative.tolist() == list(range(n))
    assert accounts.account(got.reason).kept == n
    recipe = Recipe(sources=("in",), output="out")
    found = scan(corpora.build([]), np.zeros(0, np.int64), recipe)
    assert len(found.dropped) == len(found.values) == len(found.placeholder) == 0
    assert accounts.total([]).samples == 0


def fate(
    uids: str, images: Sequence[int], dropped: Sequence[Reason | None], near: Sequence[tuple[int, int]] = ()
) -> list[tuple[str | None, int]]:
    """Samples in walking order; `near` names canonicals."""
    names = np.array([u.encode() for u in uids])
    digests = np.array([[p, 0] for p in images], np.uint64)
    readable = np.array([d is not UNREADABLE for d in dropped])
    built = identity.Identities(names, identity.canonicals(names, digests, readable))
    codes = np.array([KEPT if d is None else d.code for d in dropped], np.int8)
    found = np.array([(i, j, 0.99) for i, j in near], near_pairs.PAIR)
    n = len(uids)
    got = decide.decide(built, codes, np.arange(n), np.zeros(n, np.int32), found, dedup_of("hard"), 0.02)
    return list(zip(filters.names(got.reason), got.representative.tolist(), strict=True))


def test_a_filtered_sample_represents_no_sample() -> None:
    """Its copy and its near-duplicate stay; it has no representative."""
    small = min_side.FILTER.reason
    assert fate("abc", [0, 0, 1], [small, None, None], [(0, 2)]) == [
        ("small_side", -1), (None, 1), ("near_duplicate", 1),
    ]  # fmt: skip
    assert fate("ab", [0, 1], [small, None], [(0, 1)]) == [("small_side", -1), (None, 1)]


def test_repeated_uids() -> None:
    """The first by gid stays; a later one gets the same decision, even if the first is filtered."""
    assert fate("aab", [0, 1, 1], [None, None, None]) == [(None, 0), ("repeated_uid", 0), (None, 2)]
    assert fate("aa", [0, 1], [min_words.FILTER.reason, None]) == [("few_words", -1), ("repeated_uid", -1)]
    assert fate("aa", [0, 1], [UNREADABLE, None]) == [("unreadable", -1), (None, 1)]
    assert fate("baba", [0, 1, 2, 3], [None] * 4, [(0, 1)])[2:] == [("repeated_uid", 0), ("repeated_uid", 0)]


def test_a_copy_of_a_near_duplicate() -> None:
    """The representative of an image represents its copies."""
    assert fate("abcd", [0, 1, 1, 0], [None] * 4, [(0, 1)]) == [
        (None, 0), ("near_duplicate", 0), ("exact_copy", 0), ("exact_copy", 0),
    ]  # fmt: skip


def test_table(tmp_path: Path) -> None:
    """A row for every sample, with nulls for missing values."""
    samples = clumped(8)
    part = corpora.build(store(tmp_path, samples)).parts[1]
    n = part.samples
    held = slice(part.start, part.stop)
    reason = np.array([KEPT, NEAR_DUPLICATE.code, 0] * n, np.int8)[:n]
    built = decision_tables.table(
        part,
        decision_tables.Columns(
            reason=reason,
            represented_by=[None, "someone", None] * (n // 3) + [None] * (n % 3),
            similarity=np.array([np.nan, 0.99, np.nan] * n)[:n],
            cluster=np.array([3, 4, -1] * n, np.int32)[:n],
            output_shard=["00000", None, None] * (n // 3) + [None] * (n % 3),
            output_key=["000000000", None, None] * (n // 3) + [None] * (n % 3),
        ),
    )
    assert built.schema == decision_tables.SCHEMA
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
