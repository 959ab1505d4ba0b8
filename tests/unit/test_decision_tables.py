"""The decision tables of a stored corpus, and the check of what was removed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from made_core import filters
from made_core.dedup import decisions
from made_core.dedup.decisions import NO_SAMPLE
from made_core.output import decision_tables
from made_core.output.keep_lists import kept_table
from made_core.output.plan import Plan
from made_core.reasons import DUPLICATES, KEPT
from tests.support import oracle
from tests.support.corpora import Core, Samples, clumped, copies, one_uid, ties
from tests.support.decided import EPS, decided, opened, put

CODES = [reason.code for reason in DUPLICATES]


def checks(core: Core, stored: decision_tables.Decided, wider: int = 1) -> list[decision_tables.Check]:
    """Of each part, as if stored rows were wider."""
    plan = Plan(len(stored.kept), 10)
    result = []
    for part in core.corpus.parts:
        before = stored.kept_before(part.start)
        wide = replace(part, rows=replace(part.rows, size=part.rows.size * wider))
        result.append(decision_tables.columns(wide, core.corpus, stored, plan, 1 - EPS, before, reread=4)[1])
    return result


@pytest.mark.parametrize("make", [clumped, ties, copies, one_uid])
@pytest.mark.parametrize("rule", ["cover", "reference"])
def test_columns(make: Callable[[int], Samples], rule: str, tmp_path: Path) -> None:
    """Every removed sample has its representative's uid, and the cosine of both images' stored rows."""
    core, found = decided(tmp_path, make, rule)
    stored = opened(tmp_path, core, found)
    first, uids = core.identities.canonical, core.identities.uids
    units = oracle.unit(core.corpus.gather(np.maximum(first, 0)))
    plan, ordinal = Plan(len(stored.kept), 10), 0
    for part in core.corpus.parts:
        columns, check = decision_tables.columns(part, core.corpus, stored, plan, 1 - EPS, ordinal)
        assert stored.kept_before(part.start) == ordinal
        for row in range(part.samples):
            gid = part.start + row
            who, reason = int(found.representative[gid]), int(found.reason[gid])
            if reason == KEPT:
                assert columns.output_key[row] == plan.key(ordinal)
                assert columns.output_shard[row] == plan.name(ordinal // 10)
                ordinal += 1
            if reason == KEPT or who == NO_SAMPLE:
                assert columns.represented_by[row] is None and np.isnan(columns.similarity[row])
                continue
            assert columns.represented_by[row] == uids[who].decode()
            assert columns.similarity[row] == pytest.approx(float(units[gid] @ units[who]), abs=1e-12)
            assert first[gid] != first[who] or columns.similarity[row] == 1
        here = slice(part.start, part.stop)
        duplicate = np.isin(found.reason[here], CODES) & (found.representative[here] != NO_SAMPLE)
        assert check.checked == check.recomputed == duplicate.sum()
        far = columns.similarity[duplicate] <= 1 - EPS
        assert check.mismatched == 0 and check.broken == far.sum() and (rule == "reference" or not far.any())
    assert ordinal == len(stored.kept)


def test_cover_knows_every_similarity_of_a_duplicate(tmp_path: Path) -> None:
    """So no rows are read to write the tables: at 128 million samples that would be the corpus many times."""
    _, found = decided(tmp_path, clumped, "cover")
    assert not np.isnan(found.similarity[np.isin(found.reason, CODES)]).any()


def test_a_large_corpus_is_checked_by_a_draw(tmp_path: Path) -> None:
    core, found = decided(tmp_path, clumped, "cover")
    stored = opened(tmp_path, core, found)
    some = checks(core, stored, wider=1 << 20)
    drawn = [c for c in some if c.recomputed < c.checked]
    assert drawn and all(c.recomputed == 2 for c in drawn)
    assert some == checks(core, stored, wider=1 << 20)
    assert all(c.checked == c.recomputed for c in checks(core, stored))


def test_a_wrong_similarity_is_found(tmp_path: Path) -> None:
    """One that would be within eps, and one that would not."""
    core, found = decided(tmp_path, clumped, "cover")
    gid = int(np.flatnonzero(np.isin(found.reason, CODES))[0])
    for value, broken in ((0.99, 0), (1 - EPS, 1)):
        similarity = found.similarity.copy()
        similarity[gid] = value
        some = checks(core, opened(tmp_path, core, replace(found, similarity=similarity)))
        assert (sum(c.mismatched for c in some), sum(c.broken for c in some)) == (1, broken)


def test_an_unknown_similarity_is_computed(tmp_path: Path) -> None:
    core, found = decided(tmp_path, clumped, "cover")
    unknown = replace(found, similarity=np.full(core.corpus.samples, np.nan))
    some, other = (checks(core, opened(tmp_path, core, f)) for f in (found, unknown))
    assert some == other and any(c.checked for c in some)


def test_a_representative_that_is_not_kept_is_found(tmp_path: Path) -> None:
    core, found = decided(tmp_path, clumped, "cover")
    assert put(tmp_path, core, found).broken == 0
    removed = np.flatnonzero(np.isin(found.reason, CODES))
    representative = found.representative.copy()
    representative[removed[:2]] = removed[1], NO_SAMPLE
    assert put(tmp_path, core, replace(found, representative=representative)).broken == 2


def test_the_keep_list_names_the_kept_samples_in_the_order_of_the_output(tmp_path: Path) -> None:
    core, found = decided(tmp_path, clumped, "cover")
    kept = np.flatnonzero(found.reason == KEPT)
    listed = kept_table(core.corpus, opened(tmp_path, core, found)).to_pylist()
    places = [(part.shard.id, f"{row:09d}") for part in core.corpus.parts for row in range(part.samples)]
    assert [(row["shard"], row["key"]) for row in listed] == [places[gid] for gid in kept]
    assert [row["uid"] for row in listed] == [core.identities.uids[gid].decode() for gid in kept]
    dropped = replace(found, reason=np.zeros_like(found.reason))
    assert kept_table(core.corpus, opened(tmp_path, core, dropped)).num_rows == 0


def test_decisions_are_read_back(tmp_path: Path) -> None:
    core, found = decided(tmp_path, clumped, "reference")
    output = put(tmp_path, core, found)
    back = decisions.read(output)
    for name in ("reason", "representative", "similarity"):
        np.testing.assert_array_equal(getattr(back, name), getattr(found, name))
    assert output.kept_samples == (found.reason == KEPT).sum()
    assert filters.names(found.reason).count(None) == output.kept_samples
