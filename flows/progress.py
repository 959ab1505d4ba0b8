"""Live progress by stage: bars on a terminal, a line every few seconds elsewhere."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from made_core.data import Stage, UnitState
from made_core.state import Tally

QUIET_SECONDS = 10.0  # between two lines where no bars can be drawn


class _Rate(ProgressColumn):
    """Samples a second, as the ledger counts them."""

    def render(self, task: Task) -> Text:
        samples, seconds = task.fields.get("samples", 0), task.elapsed or 0
        if not samples or seconds <= 0:
            return Text("")
        return Text(f"{samples / seconds:,.0f} samples/s")


class Display:
    """What a person sees of a run while it goes on. `quiet` shows nothing."""

    def __init__(self, quiet: bool = False) -> None:
        self.console = Console(stderr=True, quiet=quiet)
        self._bars = Progress(
            TextColumn("{task.description:>8}"),
            BarColumn(30),
            MofNCompleteColumn(),
            TextColumn("{task.fields[what]}"),
            _Rate(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self._rows: dict[Stage, TaskID] = {}
        self._said = 0.0

    def __enter__(self) -> Display:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self._bars.stop()

    def say(self, text: str) -> None:
        """A line above the bars."""
        self._bars.console.print(text, highlight=False, markup=False)

    def update(self, stage: Stage, tally: Tally, done: bool = False) -> None:
        """Shows where a stage stands; `done` ends it."""
        total, finished = tally.total, ended(tally)
        aside = tally.units[UnitState.FAILED]
        failed = f" ({aside} set aside)" if aside else ""
        if stage not in self._rows:
            self._rows[stage] = self._bars.add_task(stage.value, total=total, what="", samples=0)
        self._bars.update(
            self._rows[stage], completed=finished, total=total, what=failed, samples=tally.samples
        )
        now = time.monotonic()
        if not self.console.is_terminal and (done or now - self._said > QUIET_SECONDS):
            self._said = now
            self.say(f"{stage.value}: {finished} of {total}{failed}, {tally.samples:,} samples")


def ended(tally: Tally) -> int:
    """Units that are done or set aside."""
    return tally.units[UnitState.DONE] + tally.units[UnitState.FAILED]
