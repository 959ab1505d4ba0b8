"""Sorting by several keys, and equal uids: as numpy's own, slower functions do."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from made_core.corpus import sorting
from made_core.corpus.sorting import first_of_equal, ordered

FLOATS = st.sampled_from([0.0, -0.0, 1.5, -2.0, float("inf"), float("nan")])
UIDS = st.lists(st.binary(max_size=9).map(lambda uid: uid.rstrip(b"\0")), max_size=30)


@given(st.lists(st.tuples(FLOATS, st.integers(0, 2), st.binary(max_size=2)), max_size=40))
def test_ordered_as_lexsort(rows: list[tuple[float, int, bytes]]) -> None:
    """Ties go by the further keys, then by position; NaN come last."""
    first = np.array([row[0] for row in rows], float)
    second = np.array([row[1] for row in rows], int)
    third = np.array([row[2] for row in rows], "S2")
    expected = np.lexsort((np.arange(len(rows)), third, second, first))
    found = ordered(first, lambda some: (second[some], third[some]))
    assert found.tolist() == expected.tolist()


def test_further_keys_are_read_for_ties_only() -> None:
    asked: list[int] = []

    def more(some: sorting.Ints) -> list[sorting.Ints]:
        asked.extend(some.tolist())
        return [-some]

    assert ordered(np.array([5, 3, 9, 3, 3]), more).tolist() == [4, 3, 1, 0, 2]
    assert sorted(asked) == [1, 3, 4]
    assert ordered(np.array([2, 1, 2])).tolist() == [1, 0, 2]


@given(UIDS)
def test_first_of_equal_as_unique(uids: list[bytes]) -> None:
    array = np.array(uids, np.bytes_)
    expected = [uids.index(uid) for uid in uids]
    assert first_of_equal(array).tolist() == expected


def test_uids_with_the_same_hash_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sorting, "_hashes", lambda uids: np.zeros(len(uids), np.uint64))
    assert first_of_equal(np.array([b"b", b"a", b"b", b"c", b"a"])).tolist() == [0, 1, 0, 3, 1]
