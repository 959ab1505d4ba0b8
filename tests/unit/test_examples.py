"""The report's examples, of a stored corpus without its tars."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from made_core.dedup.decisions import NO_SAMPLE
from made_core.reasons import DUPLICATES
from made_core.report import examples
from tests.support.corpora import clumped
from tests.support.decided import EPS, decided, opened

CODES = [reason.code for reason in DUPLICATES]


def test_the_largest_groups(tmp_path: Path) -> None:
    """Those of most samples first, each with its most similar samples."""
    core, found = decided(tmp_path, clumped, "cover")
    stored = opened(tmp_path, core, found)
    removed = np.flatnonzero(np.isin(found.reason, CODES) & (found.representative != NO_SAMPLE))
    sizes = Counter(found.representative[removed].tolist())
    groups = examples.largest_groups(core.corpus, stored, 4, 2)
    assert [g.size for g in groups] == sorted((n + 1 for n in sizes.values()), reverse=True)[:4]
    uids = core.identities.uids.tolist()
    for group in groups:
        gid = uids.index(group.kept.uid.encode())
        members = removed[found.representative[removed] == gid]
        best = sorted(found.similarity[members], reverse=True)[:2]
        assert [m.similarity for m in group.removed] == pytest.approx(best)
        assert group.kept.jpeg is None  # the tars do not exist


def test_few_tars_are_read(tmp_path: Path) -> None:
    """There is a group, however many shards it is from; another one only if its shards are few enough."""
    core, found = decided(tmp_path, clumped, "cover")
    stored = opened(tmp_path, core, found)
    some = examples.largest_groups(core.corpus, stored, 20, 9, tars=1)
    assert len(some) == 1
    every = examples.largest_groups(core.corpus, stored, 20, 1)
    shards = [{e.shard for e in (g.kept, *g.removed)} for g in every]
    few = len(shards[0] | shards[1])
    expected = next(n for n in range(2, 20) if len(set().union(*shards[: n + 1])) > few)
    assert examples.largest_groups(core.corpus, stored, 20, 1, tars=few) == every[:expected]


def test_pairs_near_the_bound(tmp_path: Path) -> None:
    """The least similar first, with the similarity that the decision tables have."""
    core, found = decided(tmp_path, clumped, "cover")
    pairs = examples.least_certain(core.corpus, opened(tmp_path, core, found), EPS, 5)
    uids = core.identities.uids.tolist()
    shown = [found.similarity[uids.index(removed.uid.encode())] for _, removed in pairs]
    assert shown == sorted(shown) == [removed.similarity for _, removed in pairs]
    assert len(pairs) == 5
