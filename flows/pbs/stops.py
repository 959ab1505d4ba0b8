"""When a process that works for a job's script has to stop."""

from __future__ import annotations

import signal
from pathlib import Path


class Stops:
    """Whether this process shall stop: a signal came, or its owner has ended."""

    def __init__(self, owner: int | None) -> None:
        self._owner, self._asked = owner, False
        self._born = None if owner is None else _start_time(owner)

    def __enter__(self) -> Stops:
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda *_: setattr(self, "_asked", True))
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def due(self) -> bool:
        """Whether to stop now."""
        return self._asked or (self._owner is not None and _start_time(self._owner) != self._born)


def _start_time(pid: int) -> str | None:
    """When a process started, None if it has ended: tells it from a later one with its id."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in "ZX" else fields[19]
