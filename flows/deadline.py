"""The end of a job: a run stops in time, and says early whether the time will suffice."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

from made_core.settings import settings

FIRST_SECONDS = 20.0  # of a stage, before its rate is used
FIRST_SHARE = 0.02  # of its samples


@contextmanager
def guarded() -> Iterator[None]:
    """Interrupts this process at MADE_STOP_AT, as Ctrl-C does: a run ends before its job is killed."""
    at = settings().stop_at
    if at is None:
        yield
        return

    def interrupt() -> None:
        print("made: the job ends soon: stopping. Submit it again to go on.", file=sys.stderr, flush=True)
        os.kill(os.getpid(), signal.SIGINT)

    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # shells start background processes like this
        signal.signal(signal.SIGINT, signal.default_int_handler)
    timer = threading.Timer(max(0.0, at - time.time()), interrupt)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


class Pace:
    """Estimates once per stage how long it takes, and warns if the job ends before.

    Args:
        stop_at: when the run stops, in seconds since the epoch; None: never.
        say: prints a line.
    """

    def __init__(self, stop_at: float | None, say: Callable[[str], None]) -> None:
        self._stop_at, self._say = stop_at, say
        self._began: dict[str, tuple[float, int]] = {}  # time and samples when a stage was first seen
        self._said: set[str] = set()

    def update(self, stage: str, samples: int, expect: int | None, now: float | None = None) -> None:
        """Called often while a stage runs.

        Args:
            samples: done so far, by this run and earlier ones.
            expect: total of the stage; None: unknown, and nothing is estimated.
            now: seconds since the epoch; default: the time.
        """
        now = time.time() if now is None else now
        began, before = self._began.setdefault(stage, (now, samples))
        done, seconds = samples - before, now - began
        if stage in self._said or not expect or seconds < FIRST_SECONDS or done < FIRST_SHARE * expect:
            return
        self._said.add(stage)
        if samples >= expect:  # a stage that ended between two looks has nothing left to estimate
            return
        rate = done / seconds
        need = (expect - samples) / rate
        text = f"{stage}: {rate:,.1f} samples/s, about {_clock(need)} for the remaining {expect - samples:,}"
        if self._stop_at is None:
            self._say(text)
            return
        left = self._stop_at - now
        self._say(f"{text}; the job has {_clock(left)} left")
        if need > left:
            share = (samples + rate * max(0.0, left)) / expect
            self._say(
                f"warning: the time will not suffice: {share:.0%} of {stage} will be done when the job ends. "
                "Submit the same job again to go on; more nodes or a longer walltime avoid it."
            )


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=round(max(0.0, seconds))))
