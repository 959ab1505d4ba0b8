"""A worker process that fails every unit: it slows down, so that others take its units.

A node without the mount of the shards, or a GPU whose every call fails, fails units within milliseconds. It
is always free, so it would take all units, and use up their attempts.
"""

from __future__ import annotations

import logging
import time

from made_core.errors import Permanent

ROW = 3  # units that fail in a row before the process counts as sick
REST = 5.0  # seconds before a sick process claims a unit; doubled for each further failure
REST_MOST = 20.0  # a run whose last units all fail on every worker must end too


class Health:
    """The units that failed in a row in this process, through no fault of their own data."""

    def __init__(self) -> None:
        self._row: list[str] = []

    def ended(self, key: str, error: Exception | None) -> None:
        """A unit has ended. Errors of its data (Permanent) say nothing about the process."""
        if error is None:
            self._row.clear()
        elif not isinstance(error, Permanent) and key not in self._row:
            self._row.append(key)

    @property
    def sick(self) -> bool:
        """Whether the process should claim no more units for now."""
        return len(self._row) >= ROW

    @property
    def rest(self) -> float:
        """Seconds to wait before the next claim; 0 for a healthy process."""
        return min(REST_MOST, REST * 2.0 ** (len(self._row) - ROW)) if self.sick else 0.0

    def recover(self, logger: logging.Logger | logging.LoggerAdapter[logging.Logger]) -> None:
        """Waits before the next claim, if the process is sick."""
        if self.rest:
            logger.warning(
                "the last %d units failed in this process: it waits %g s, for others to take them",
                len(self._row), self.rest,
            )  # fmt: skip
            time.sleep(self.rest)


HEALTH = Health()  # of this process
