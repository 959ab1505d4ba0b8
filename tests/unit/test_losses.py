"""When the engine submits again after tasks were lost, and when it gives up."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import count
from typing import Any
from unittest.mock import Mock

import pytest
from prefect.client.schemas.objects import State
from prefect.states import Failed

from flows import placement
from flows.engine import Engine
from flows.losses import LOSSES, QUIET, Losses
from made_core.errors import LeaseLost, MadeError
from made_core.ledger.records import Tally
from made_core.recipe_file import validate
from made_core.stages import PAIRS
from made_core.types import UnitState


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Lets seconds pass."""
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])

    def later(seconds: float) -> None:
        now[0] += seconds

    return later


def test_a_node_that_dies_is_one_loss(later: Callable[[float], None]) -> None:
    losses = Losses()
    assert losses.quiet <= 0
    for _ in range(64):
        losses.add()
        later(0.01)
    assert losses.row == 1 < LOSSES and 0 < losses.quiet <= 1


def test_each_loss_in_a_row_doubles_the_pause(later: Callable[[float], None]) -> None:
    losses, pauses = Losses(), []
    while losses.row < LOSSES:
        losses.add()
        pauses.append(losses.quiet)
        later(losses.quiet)
    assert pauses == [1, 2, 4, 8, 16, 32, QUIET, QUIET]


def test_a_unit_that_ends_ends_the_row(later: Callable[[float], None]) -> None:
    losses = Losses()
    losses.add()
    losses.end()
    assert losses.row == 0 and losses.quiet <= 0


class Lost:
    """A future of a task whose node has died."""

    state: State[Any] = Failed(message="the node has died")

    def wait(self) -> None: ...


class Cluster:
    """A ledger of 16 units and a cluster that loses its tasks until the engine has looked `good` times."""

    def __init__(self, good: int) -> None:
        self.good, self.passes, self.submitted = good, 0, 0

    def pending(self, *_: object) -> tuple[list[str], float | None]:
        self.passes += 1
        return ([], None) if self.passes > self.good else ([str(n) for n in range(16)], 0.0)

    def submit(self, _: list[str]) -> Lost:
        self.submitted += 1
        return Lost()


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch, later: Callable[[float], None]) -> Engine:
    """An engine whose ledger and cluster are `Cluster`."""
    monkeypatch.setattr(placement, "nodes", lambda: [])
    monkeypatch.setattr(placement, "plan", lambda *_: [])
    monkeypatch.setattr(placement, "workers", lambda *_: 16)

    def landed(_: Engine, futures: list[Lost], pause: float) -> list[Lost]:
        later(pause)
        return futures

    monkeypatch.setattr(Engine, "_landed", landed)
    recipe = validate({"sources": ["/in"], "output": "/out"}, None)
    return Engine(Mock(), Mock(recipe=recipe), Mock())


def drive(engine: Engine, cluster: Cluster) -> None:
    fake: Any = engine.ledger
    fake.units.pending = cluster.pending
    fake.units.tally.return_value = Tally(dict.fromkeys(UnitState, 0), 0)
    submit: Any = cluster.submit
    engine._drive(PAIRS, "scope", [str(n) for n in range(16)], submit, placement.ONE_CPU, None, False)


def test_a_node_of_many_workers_does_not_end_the_run(engine: Engine) -> None:
    cluster = Cluster(good=3)
    drive(engine, cluster)
    assert cluster.submitted >= 16


def test_tasks_that_are_always_lost_do(engine: Engine) -> None:
    with pytest.raises(MadeError, match="pairs: tasks were lost 8 times in a row"):
        drive(engine, Cluster(good=10**6))


def test_a_run_that_was_taken_over_ends(engine: Engine) -> None:
    """Its ledger gives it no units any more, and another run holds the open ones."""
    calls = count()

    def check() -> None:
        if next(calls) == 3:
            raise LeaseLost("run r1")

    engine.check = check
    with pytest.raises(LeaseLost):
        drive(engine, Cluster(good=10**6))
