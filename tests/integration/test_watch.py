"""A flow run that is cancelled in Prefect stops its process, even if nobody else does."""

from __future__ import annotations

import signal
import time
from contextlib import nullcontext
from typing import Any, NoReturn
from uuid import uuid4

import pytest
from prefect.client.schemas.objects import State
from prefect.logging import disable_run_logger
from prefect.states import Cancelling, Paused, Running

from flows import servers, watch
from flows.drive import drive
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

    def close_tasks(self, state: State[Any]) -> None: ...


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


@pytest.mark.parametrize("cancelled", [True, False])
def test_a_signal_that_a_library_wraps(monkeypatch: pytest.MonkeyPatch, cancelled: bool) -> None:
    """The flow ends as Cancelled if that was requested; else by its error."""
    flow_run = Told(uuid4(), False).say(Cancelling() if cancelled else Running())
    monkeypatch.setattr(FlowRun, "current", lambda: flow_run)
    monkeypatch.setattr(servers, "database", lambda: nullcontext("postgresql://"))
    checked = []

    def check(url: str, _: FlowRun) -> NoReturn:
        checked.append(url)
        raise ValueError("Error calling function `_ser_model`: TerminationSignal: ")

    with disable_run_logger(), nullcontext() if cancelled else pytest.raises(ValueError, match="_ser_model"):
        assert drive(check).is_cancelled()
    assert checked == ["postgresql://"]
