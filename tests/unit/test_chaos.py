"""The plan of `make chaos`: 120 kills cover every kind and every point."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.chaos.plan import ANY, FIRST, KINDS, POINTS, ROUND, deal, plan

KILLS = 120  # of make chaos


@pytest.mark.parametrize("kinds", [KINDS, tuple(k for k in KINDS if k != "disk")])
@pytest.mark.parametrize("seed", range(20))
def test_all_kinds_at_all_points(seed: int, kinds: tuple[str, ...]) -> None:
    kills = plan(KILLS, seed, kinds)
    assert kills == plan(KILLS, seed, kinds) and len(kills) == KILLS
    assert {kill.point for kill in kills if kill.kind == "worker"} == {*POINTS, ANY}
    assert set(Counter(kill.kind for kill in kills)) == set(kinds)
    assert min(Counter(kill.kind for kill in kills).values()) >= 10
    assert {kill.point for kill in kills} == {*POINTS, ANY}


def test_the_first_round_shows_what_a_failure_costs() -> None:
    assert [kill.name for kill in FIRST if kill.stage == "embed"] == ["embed.mid-shard.worker"]
    assert {kill.kind for kill in FIRST} == set(KINDS)
    assert plan(3, 0) == list(FIRST[:3])


def test_rounds_take_every_kill_once() -> None:
    waiting = plan(KILLS, 7)
    planned, dealt = Counter(waiting), Counter()  # type: Counter[object], Counter[object]
    while waiting:
        taken = deal(waiting, ROUND)
        points = [kill.point for kill in taken if kill.point != ANY]
        assert 0 < len(taken) <= ROUND and len(points) == len(set(points))
        dealt += Counter(taken)
    assert dealt == planned
