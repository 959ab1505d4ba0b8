"""The similarity to the representative, and clusters that are compared when samples are decided."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from made_core.cluster import cluster_rows
from made_core.corpus.identity import Identities, canonicals
from made_core.dedup import decide, near_pairs
from made_core.dedup.decisions import Decisions
from made_core.filters import names
from made_core.reasons import KEPT
from made_core.recipe_dedup import Dedup
from tests.support.corpora import clumped, prepare, store

EPS = 0.125


def fate(
    uids: str, images: Sequence[int], near: Sequence[tuple[int, int]] = ()
) -> list[tuple[str | None, int, float | None]]:
    """Reason, representative and similarity of readable samples in walking order; `near` are at 0.99."""
    n = len(uids)
    every = np.array([u.encode() for u in uids])
    digests = np.array([[image, 0] for image in images], np.uint64)
    built = Identities(every, canonicals(every, digests, np.ones(n, bool)))
    pairs = np.array([(i, j, 0.99) for i, j in near], near_pairs.PAIR)
    got = decide.decide(
        built, np.full(n, KEPT, np.int8), np.arange(n), np.zeros(n, np.int32), pairs, Dedup(keep="hard"), 0.02
    )
    known = [None if np.isnan(value) else float(value) for value in got.similarity]
    return list(zip(names(got.reason), got.representative.tolist(), known, strict=True))


def test_equal_images_have_the_similarity_of_their_representatives() -> None:
    """Copies of a kept image 1, those of a removed image that of its pair."""
    assert fate("abc", [0, 0, 0]) == [(None, 0, None), ("exact_copy", 0, 1), ("exact_copy", 0, 1)]
    assert fate("abc", [0, 1, 1], [(0, 1)])[1:] == [("near_duplicate", 0, 0.99), ("exact_copy", 0, 0.99)]


def test_the_similarity_of_a_repeated_uid_is_known_for_an_equal_image_only() -> None:
    assert fate("aa", [0, 0])[1] == ("repeated_uid", 0, 1)
    assert fate("aa", [0, 1])[1] == ("repeated_uid", 0, None)
    assert fate("abb", [0, 1, 1], [(0, 1)])[2] == ("repeated_uid", 0, 0.99)
    assert fate("abb", [0, 1, 2], [(0, 1)])[2] == ("repeated_uid", 0, None)
    assert fate("abb", [0, 0, 0])[2] == ("repeated_uid", 0, 1), "of an exact copy"


@pytest.mark.parametrize("rule", ["cover", "reference"])
def test_clusters_without_stored_pairs_decide_as_their_pairs_do(rule: str, tmp_path: Path) -> None:
    """All clusters, each with visitors; the first sample of all is in one."""
    samples = clumped(1)
    k = 6
    core = prepare(tmp_path, store(tmp_path, samples), k, 2)
    n, dedup = core.corpus.samples, Dedup(keep="hard", rule=rule)
    dropped = np.where(core.identities.canonical < 0, 0, KEPT).astype(np.int8)

    def decided(pairs: npt.NDArray[Any], crowded: Sequence[cluster_rows.Cluster] = ()) -> Decisions:
        return decide.decide(core.identities, dropped, np.arange(n), core.cluster, pairs, dedup, EPS, crowded)

    expected = decided(core.pairs)
    assert 10 < (expected.reason == KEPT).sum() < n - 10 and expected.reason[0] == KEPT
    assert (expected.representative[1:] == 0).any()
    with cluster_rows.gathered(core.batches, 0, k) as clusters:
        got = decided(core.pairs[:0], list(clusters))
    assert got.reason.tolist() == expected.reason.tolist()
    assert got.representative.tolist() == expected.representative.tolist()
