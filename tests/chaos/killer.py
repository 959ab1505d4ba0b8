"""Runs in the Ray workers of a chaos run: at named points, checks whether a kill is armed there.

The product does not depend on it: `install` wraps the functions that every unit calls. An armed kill is a
file in a folder. The worker that renames it first carries it out: it kills itself, or waits at the point
until the controller, which sees the file, has done it.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

from made_core.io import files, paths
from made_core.ledger.units import Units
from made_core.output import publish
from tasks import run_units
from tests.chaos.processes import FOLDER

PATIENCE = 30.0  # seconds to wait at a point for the controller
DYING = 15.0  # seconds that a worker waits for its own end


class _Where:
    """The point that this worker, which runs one unit at a time, has reached."""

    stage: str | None = None
    puts = moves = 0


def install() -> None:
    """Ray calls this in each worker before its first task."""
    _wrap(Units, "claim", after=_claimed)
    _wrap(Units, "finish", before=lambda *_: _meet("before-row"), after=_finished)
    _wrap(run_units.Lease, "progress", before=lambda *_: _meet("mid-shard"))
    _wrap(files, "put", before=_putting)
    _wrap(files, "move", before=_moving)
    _wrap(publish, "publish", before=_publishing, after=lambda *_: _meet("after-moves"))


def _claimed(found: list[Any]) -> None:
    _Where.stage, _Where.puts = (found[0].stage if found else None), 0


def _finished(_: None) -> None:
    _meet("after-row")
    _Where.stage = None


def _putting(url: str, *_: object) -> None:
    if _Where.stage == "publish" and url.endswith(f"/{paths.SUMMARY}"):
        _meet("before-summary")
    elif _Where.puts == 0:
        _meet("before-file")
    _Where.puts += 1


def _publishing(*_: object) -> None:
    _Where.stage, _Where.moves = "publish", 0
    _meet("before-moves")


def _moving(*_: object) -> None:
    _Where.moves += 1
    if _Where.moves == 3:
        _meet("amid-moves")


def _meet(when: str) -> None:
    """Carries out the kill armed here, once."""
    folder = Path(os.environ[FOLDER])
    for armed in sorted(folder.glob(f"armed/{_Where.stage}.{when}.*")):
        kind = armed.suffix[1:]
        try:
            armed.rename(folder / "struck" / f"{armed.name}.{os.getpid()}.{os.getppid()}")
        except FileNotFoundError:  # another worker took it
            continue
        if kind == "worker":
            os.kill(os.getpid(), signal.SIGKILL)
        end = time.monotonic() + PATIENCE
        while not (folder / "done" / armed.name).exists() and time.monotonic() < end:
            time.sleep(0.01)
        if kind in ("raylet", "flow"):
            time.sleep(DYING)


def _wrap(
    owner: Any,
    name: str,
    before: Callable[..., None] = lambda *_: None,
    after: Callable[[Any], None] = lambda _: None,
) -> None:
    wrapped = getattr(owner, name)

    @wraps(wrapped)
    def around(*args: Any, **kwargs: Any) -> Any:
        own = args if not isinstance(owner, type) else args[1:]
        before(*own)
        result = wrapped(*args, **kwargs)
        after(result)
        return result

    setattr(owner, name, around)
