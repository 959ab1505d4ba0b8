"""Watches the state of this flow run in Prefect, and stops the process where it is cancelled or suspended.

A worker that lives ends its flow runs itself, by SIGTERM. If it has died, the flow does so.
"""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from prefect.client.schemas.objects import State
from prefect.exceptions import Pause
from prefect.states import Cancelled

from flows.flow_run import FlowRun
from flows.periodic import every

logger = logging.getLogger("prefect.made")
SECONDS = 3.0  # between two looks
AGAIN = 15.0  # seconds until the signal is sent again: one that comes while Ray starts can be lost


class Watch:
    """What was asked of this flow run while it works."""

    def __init__(self, flow_run: FlowRun) -> None:
        self._flow_run = flow_run
        self._seen = 0  # how often in a row: the first time, a live worker has a moment to act
        self._again = 0.0  # when the next signal may be sent
        self._ending = False
        self.stopped: State | None = None  # Cancelling, Cancelled or Suspended

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Looks every few seconds; TerminationSignal is raised in the main thread if the run is to stop."""
        if threading.current_thread() is not threading.main_thread():
            yield  # only the main thread gets signals
            return
        with every(SECONDS, self._look):
            yield

    def asked(self) -> State | None:
        """The state that stops this run; None: nobody asked. The process ends: no more signals are sent."""
        self._ending = True
        return self.look() or self.stopped

    def look(self) -> State | None:
        """Asks Prefect; the state that stops this run, None: it goes on."""
        state = self._flow_run.state()
        if state is None:
            return self.stopped
        if state.is_paused() and not state.state_details.pause_reschedule:
            # Nobody would start the process again: only a suspended run is scheduled when it is resumed.
            self._flow_run.running("a run cannot be paused in place: suspend it, or cancel it and retry")
            return None
        self.stopped = state if state.is_cancelling() or state.is_cancelled() or state.is_paused() else None
        return self.stopped

    def _look(self) -> None:
        self._seen = self._seen + 1 if self.look() else 0
        if self._ending or self._seen < 2 or time.monotonic() < self._again:
            return
        if callable(signal.getsignal(signal.SIGTERM)):
            self._again = time.monotonic() + AGAIN
            logger.warning("the run is %s in Prefect: stopping", self.stopped and self.stopped.name)
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)

    def end(self) -> State:
        """The end of a flow that was `stopped`.

        Raises:
            Pause: it was suspended: Prefect schedules it again when it is resumed.
        """
        self._flow_run.close_tasks(Cancelled(message="its flow run was stopped"))
        if self.stopped is not None and self.stopped.is_paused():
            raise Pause(state=self.stopped)
        return Cancelled(message="cancelled: retry it, or run the same recipe again, to resume")
