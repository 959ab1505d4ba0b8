"""The files of decisions, and what is counted of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from made_core.corpus.identity import Identities
from made_core.dedup import decisions
from made_core.dedup.decisions import NO_SAMPLE, Decisions
from made_core.filters import min_side
from made_core.io.arrays import read_array
from made_core.reasons import EXACT_COPY, KEPT, NEAR_DUPLICATE, PLACEHOLDER, REPEATED_UID, UNREADABLE
from made_core.stages import ResolveOutput

COPY, NEAR, HIDDEN = EXACT_COPY.code, NEAR_DUPLICATE.code, PLACEHOLDER.code
# The reason, representative and canonical sample of each; the first four are of an earlier run.
SAMPLES = [
    (KEPT, 0, 0), (HIDDEN, 0, 0), (KEPT, 2, 2), (min_side.FILTER.reason.code, NO_SAMPLE, 3),
    (COPY, 0, 0), (KEPT, 5, 5), (HIDDEN, 5, 5), (NEAR, 2, 7), (NEAR, 5, 8), (REPEATED_UID.code, 5, 5),
    (UNREADABLE.code, NO_SAMPLE, -1), (HIDDEN, NO_SAMPLE, 11), (HIDDEN, NO_SAMPLE, 11), (KEPT, 13, 13),
]  # fmt: skip
PLACEHOLDERS = [0, 1, 2, 4, 5, 6, 9, 11, 12]
BEGIN = 4


def put(
    folder: Path, begin: int, changed: dict[int, int] | None = None, uid: bytes = b"%032x"
) -> ResolveOutput:
    """The stored decisions; `changed`: other representatives."""
    reason, representative, canonical = (np.array(column) for column in zip(*SAMPLES, strict=True))
    for gid, other in (changed or {}).items():
        representative[gid] = other
    n = len(SAMPLES)
    uids = np.array([b"%032X" % (gid + 10) if gid in (1, 3) else uid % gid for gid in range(n)])
    decided = Decisions(reason.astype(np.int8), representative, np.linspace(0.9, 1, n))
    flags = np.isin(np.arange(n), PLACEHOLDERS)
    return decisions.put(
        str(folder / "x"), decided, Identities(uids, canonical), np.arange(n, dtype=np.int32), flags, begin
    )


def test_what_is_counted_is_of_this_run(tmp_path: Path) -> None:
    """Its samples follow those of the run that it extends."""
    found = put(tmp_path, BEGIN)
    assert (found.samples, found.kept_samples, found.kept_earlier) == (10, 2, 2)
    assert read_array(found.kept).tolist() == [5, 13]
    assert found.represented_earlier == 2
    assert (found.placeholder_images, found.placeholder_samples) == (3, 6)
    assert found.broken == 0


def test_a_run_that_extends_none(tmp_path: Path) -> None:
    found = put(tmp_path, 0)
    assert (found.samples, found.kept_samples, found.kept_earlier) == (14, 4, 0)
    assert read_array(found.kept).tolist() == [0, 2, 5, 13]
    assert found.represented_earlier == 0
    assert (found.placeholder_images, found.placeholder_samples) == (4, 9)


@pytest.mark.parametrize(
    ("gid", "other", "broken"),
    [
        (4, NO_SAMPLE, 1),  # an exact copy, a placeholder and a near duplicate of no kept sample
        (8, NO_SAMPLE, 1),
        (4, 7, 1),
        (6, 4, 1),
        (8, 7, 1),
        (9, 4, 0),  # a repeated uid is represented as the first one is
        (1, 3, 0),  # of the earlier run, which has counted it
    ],
)
def test_a_duplicate_without_a_kept_sample_is_broken(
    tmp_path: Path, gid: int, other: int, broken: int
) -> None:
    assert put(tmp_path, BEGIN, {gid: other}).broken == broken


def test_stored_decisions_are_read_for_every_sample(tmp_path: Path) -> None:
    """Those of the earlier run too; a kept sample is represented by no other."""
    found = put(tmp_path, BEGIN)
    got = decisions.read(found)
    assert got.reason.tolist() == [reason for reason, _, _ in SAMPLES]
    assert got.representative.tolist() == [who for _, who, _ in SAMPLES]
    assert got.similarity.tolist() == np.linspace(0.9, 1, len(SAMPLES)).tolist()
    assert read_array(found.cluster).tolist() == list(range(len(SAMPLES)))
    by = [
        b"%032x" % who if reason != KEPT and who != NO_SAMPLE else b"" for reason, who, _ in SAMPLES
    ]  # fmt: skip
    assert read_array(found.represented_by).tolist() == by


def test_only_uids_of_kept_samples_decide_about_the_keep_array(tmp_path: Path) -> None:
    """Two that are dropped, one before and one of an earlier run, are no hex numbers of DataComp's form."""
    assert put(tmp_path, BEGIN).hex_uids
    assert not put(tmp_path, BEGIN, uid=b"u%031x").hex_uids
