"""The flow's process, restarted with the same recipe until it succeeds; a spare one is kept ready."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from tests.chaos.processes import Part


class Driver:
    """At most one process runs the flow; where another may follow, it has finished its imports and waits."""

    def __init__(self, folder: Path, environment: dict[str, str], address: str) -> None:
        self._folder, self._environment, self._address = folder, environment, address
        self._count = 0
        self._ready: Part | None = self._spare()
        self.now: Part | None = None

    def _spare(self) -> Part:
        self._count += 1
        part = Part(f"flow-{self._count}", self._folder, self._environment)
        part.start([sys.executable, "-m", "tests.chaos.drive", str(self._go(part)), self._address])
        return part

    def _go(self, part: Part) -> Path:
        return self._folder / f"{part.name}.json"

    def start(self, recipe: dict[str, Any], spare: bool) -> Part:
        """Starts the run in the waiting process. Args: spare: start the next one."""
        self.now, self._ready = self._ready or self._spare(), None
        go = self._go(self.now)
        go.with_suffix(".part").write_text(json.dumps(recipe))
        go.with_suffix(".part").rename(go)
        if spare:
            self._ready = self._spare()
        return self.now

    def pids(self) -> list[int]:
        """The process that runs the flow, if any."""
        return [self.now.pid] if self.now is not None and self.now.ended is None else []

    def stop(self) -> None:
        """Kills both."""
        for part in (self.now, self._ready):
            if part is not None:
                part.kill()
