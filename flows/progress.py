"""Live progress by stage: bars on a terminal, otherwise a line every few seconds."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import TracebackType

from prefect.logging import get_run_logger
from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from made_core.ledger.records import Tally
from made_core.types import UnitState

QUIET_SECONDS = 10.0  # between two lines without a terminal
_shown = ContextVar("shown", default=False)


@contextmanager
def shown() -> Iterator[None]:
    """Flows called inside the context show their progress on stderr."""
    token = _shown.set(True)
    try:
        yield
    finally:
        _shown.reset(token)


class _Rate(ProgressColumn):
    """Samples per second since this process started the stage, as counted by the ledger."""

    def render(self, task: Task) -> Text:
        samples = task.fields["samples"] - task.fields["before"]
        seconds = task.finished_time or task.elapsed or 0
        return Text(f"{samples / seconds:,.0f} samples/s" if samples > 0 and seconds > 0 else "")


class Display:
    """The progress of a live run on stderr; nothing outside of `shown`."""

    def __init__(self) -> None:
        self.console = Console(stderr=True, quiet=not _shown.get())
        self._bars = Progress(
            TextColumn("{task.description:>8}"),
            BarColumn(30),
            TextColumn("{task.fields[units]}"),
            _Rate(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self._log = get_run_logger()
        self._rows: dict[str, TaskID] = {}
        self._printed = 0.0

    def __enter__(self) -> Display:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self._bars.stop()

    def say(self, text: str) -> None:
        """Prints a line above the bars, and logs it in Prefect."""
        self._print(text)
        self._log.info("%s", text)

    def _print(self, text: str) -> None:
        # without a terminal, rich would wrap at 80 columns
        self._bars.console.print(text, highlight=False, markup=False, soft_wrap=not self.console.is_terminal)

    def update(
        self, stage: str, tally: Tally, expect: int | None, done: bool = False, stored: int = 0
    ) -> None:
        """Shows the progress of a stage; `done` completes its bar.

        Args:
            stored: units that were done before the stage began.
            expect: total samples of the stage, for the bar and the ETA; None: the bar counts units.
        """
        finished, failures = ended(tally), tally.units[UnitState.FAILED]
        failed = f" ({failures} failed)" if failures else ""
        units = f"{finished:,} of {tally.total:,}{failed}"
        if stage not in self._rows:
            self._rows[stage] = self._bars.add_task(
                stage, units=units, samples=tally.samples, before=tally.samples
            )
        total = expect or tally.total
        progress = total if done else tally.samples if expect else finished
        self._bars.update(
            self._rows[stage], completed=progress, total=total, units=units, samples=tally.samples
        )
        now = time.monotonic()
        line = f"{stage}: {units}, {tally.samples:,} samples"
        if done and stored:
            line += ", all from the store" if stored == tally.total else f", {stored:,} from the store"
        if not self.console.is_terminal and (done or now - self._printed > QUIET_SECONDS):
            self._printed = now
            self._print(line)
        if done:
            self._log.info("%s", line)


def ended(tally: Tally) -> int:
    """Units that are done or failed."""
    return tally.units[UnitState.DONE] + tally.units[UnitState.FAILED]
