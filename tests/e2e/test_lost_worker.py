"""A task that is not a unit of the ledger is retried if its worker dies."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from prefect import flow, task
from prefect_ray.context import remote_options

from flows.engine import run_task, runner
from made_core.errors import WorkerLost
from made_core.retries import retrying


@task
def dies_once(note: Path) -> int:
    """Writes its process id and kills its process; the next attempt finds the id."""
    if note.exists():
        return int(note.read_text())
    note.write_text(str(os.getpid()))
    os.kill(os.getpid(), signal.SIGKILL)
    return 0


@flow(task_runner=runner())
def ask(note: Path, attempts: int) -> int:
    """The result of the task."""
    with remote_options(max_retries=0):  # Ray's own retries come before ours
        return int(retrying(attempts)(run_task, dies_once, note))


def test_a_lost_worker_is_a_transient_error(servers: str, tmp_path: Path) -> None:
    assert ask(tmp_path / "first", 2) == int((tmp_path / "first").read_text()) != os.getpid()
    with pytest.raises(WorkerLost, match="dies_once"):
        ask(tmp_path / "second", 1)
