"""When the engine submits again after tasks were lost, and when it gives up."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from flows.losses import LOSSES, QUIET, Losses


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
