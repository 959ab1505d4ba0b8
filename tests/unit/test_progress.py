"""The progress of a run on a terminal, where it is drawn as bars."""

from __future__ import annotations

import logging

import pytest

from flows import progress
from flows.progress import Display, shown
from made_core.ledger.records import Tally
from made_core.types import UnitState

pytestmark = pytest.mark.unit


def test_bars_of_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setattr(progress, "get_run_logger", lambda: logging.getLogger("made.test"))
    units = {state: 0 for state in UnitState} | {UnitState.DONE: 1, UnitState.OPEN: 3}
    with shown(), Display() as display:
        assert display.console.is_terminal
        display.update("embed", Tally(units, 100), 400)
        display.say("a line above the bars")
    text = capsys.readouterr().err
    assert "1 of 4" in text and "a line above the bars" in text
