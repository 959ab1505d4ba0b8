"""A part of `make fuzz`, and a check that it detects faults."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.fuzz.box import MIB, Box


def test_damage_affects_only_its_own_sample() -> None:
    box = Box("tests.fuzz.judge:judged", seed=1, memory=256 * MIB, seconds=60)
    verdicts = list(box.run(range(150)))
    assert [(v.number, v.wrong) for v in verdicts if v.wrong] == []
    total = sum((Counter(v.counts) for v in verdicts), Counter())
    assert len(verdicts) == 150 and box.starts == 1
    assert total["refused"] > 10 and total["unreadable"] > 30 and total["embedded"] > 300


def test_cases_are_reproducible() -> None:
    from tests.fuzz.cases import make  # imported here: it imports torch, which the boxes below do not need

    assert [make(3, n) for n in range(40)] == [make(3, n) for n in range(40)]
    assert make(3, 0).tar != make(4, 0).tar


def test_a_box_survives_all() -> None:
    box = Box("tests.support.faults:misbehave", seed=64, memory=64 * MIB, seconds=2)
    verdicts = list(box.run(range(9)))
    assert [v.number for v in verdicts] == list(range(9))
    assert all((v.counts, v.wrong) == ({"fine": 1}, None) for v in verdicts[::2])
    wrong = [v.wrong or "" for v in verdicts[1::2]]
    assert wrong[0].startswith("ValueError: odd (faults.py:")
    assert wrong[1].startswith("MemoryError")
    assert wrong[2].startswith("crashes") and wrong[3].startswith("hangs")
    assert box.starts == 3


def test_a_box_that_does_not_start() -> None:
    with pytest.raises(RuntimeError, match="did not start"):
        next(Box("tests.support.faults:nobody", 0, 64 * MIB, 1).run(range(1)))
