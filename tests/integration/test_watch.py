"""A flow run that is cancelled in Prefect stops its process, even if nobody else does."""

from __future__ import annotations

import signal
import time
from typing import Any
from uuid import uuid4

import pytest
from prefect.client.schemas.objects import State
from prefect.states import Cancelling, Paused, Running

from flows import watch
from flows.flow_run import FlowRun
from flows.watch import Watch


class Told(FlowRun):
    """A flow run whose state a test says."""

    def say(self, state: State[Any]) -> Told:
        object.__setattr__(self, "now", state)
        return self

    def state(self) -> State[Any]:
        return self.now  # type: ignore[attr-defined, no-any-return]

    def running(self, message: str, name: str = "Running") -> None:
        self.say(Running(message=message))


class Terminated(BaseException):
    """What the handler raises."""


def test_a_signal_that_was_lost_is_sent_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "SECONDS", 0.02)
    monkeypatch.setattr(watch, "AGAIN", 0.1)
    got: list[float] = []

    def handler(number: int, frame: object) -> None:
        got.append(time.monotonic())
        if len(got) > 1:
            raise Terminated

    before = signal.signal(signal.SIGTERM, handler)
    watched = Watch(Told(uuid4(), True).say(Cancelling()))
    try:
        with pytest.raises(Terminated), watched.watching():
            time.sleep(60)
        assert watched.asked() is not None
        with watched.watching():  # it ends by now: no further signal
            time.sleep(0.5)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert len(got) == 2 and got[1] - got[0] >= 0.1


def test_a_pause_in_place_is_refused() -> None:
    flow_run = Told(uuid4(), True).say(Paused(timeout_seconds=60))
    watched = Watch(flow_run)
    assert watched.look() is None and watched.stopped is None
    assert flow_run.state().is_running() and "suspend it" in str(flow_run.state().message)
