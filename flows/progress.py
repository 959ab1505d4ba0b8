"""Live progress by stage: bars on a terminal, a line every few seconds elsewhere."""

from __future__ import annotations

import time
from types import TracebackType

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

QUIET_SECONDS = 10.0  # between two lines where no bars can be drawn


class _Rate(ProgressColumn):
    """Samples a second since this process began with the stage, as the ledger counts them."""

    def render(self, task: Task) -> Text:
        samples = task.fields["samples"] - task.fields["before"]
        seconds = task.finished_time or task.elapsed or 0
        return Text(f"{samples / seconds:,.0f} samples/s" if samples > 0 and seconds > 0 else "")


class Display:
    """What a person sees of a run while it goes on. `quiet` shows nothing."""

    def __init__(self, quiet: bool = False) -> None:
        self.console = Console(stderr=True, quiet=quiet)
        self._bars = Progress(
            TextColumn("{task.description:>8}"),
            BarColumn(30),
            TextColumn("{task.fields[units]}"),
            TextColumn("{task.fields[what]}"),
            _Rate(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self._rows: dict[str, TaskID] = {}
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

    def update(self, stage: str, tally: Tally, expect: int | None, done: bool = False) -> None:
        """Shows where a stage stands; `done` ends it.

        Args:
            expect: samples that the stage will have done, for the bar and the time left; None: the
                bar goes by units.
        """
        finished, lost = ended(tally), tally.units[UnitState.FAILED]
        failed = f" ({lost} failed)" if lost else ""
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
        if not self.console.is_terminal and (done or now - self._said > QUIET_SECONDS):
            self._said = now
            self.say(f"{stage}: {units}, {tally.samples:,} samples")


def ended(tally: Tally) -> int:
    """Units that are done or failed."""
    return tally.units[UnitState.DONE] + tally.units[UnitState.FAILED]
