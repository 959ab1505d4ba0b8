"""Tasks that are lost in a row: how long to wait for the next one, and when to give up."""

from __future__ import annotations

import time

LOSSES = 8  # times in a row that tasks are lost before the run fails
QUIET = 60.0  # most seconds without a new task after a loss; 1 after the first of a row, then twice as many


class Losses:
    """How often tasks were lost in a row, and until when no other is submitted.

    A node that dies takes all its tasks with it: those lost within the pause count as one loss.
    """

    def __init__(self) -> None:
        self.row = 0
        self._until = 0.0

    def add(self) -> None:
        """A task was lost."""
        if self.quiet <= 0:
            self._until = time.monotonic() + min(QUIET, 2.0**self.row)
            self.row += 1

    def end(self) -> None:
        """A unit has ended: the cluster works."""
        self.row, self._until = 0, 0.0

    @property
    def quiet(self) -> float:
        """Seconds until the next task can be submitted; not positive: now."""
        return self._until - time.monotonic()
