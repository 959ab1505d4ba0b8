"""Runs of the deployments by a worker: retried, cancelled, killed, started again.

The states of Prefect, the ledger and the processes agree.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from made_core.errors import StorageFailed
from made_core.ledger.ledger import Ledger
from made_core.sample.write import write_sample
from made_core.stages import EMBED
from made_core.types import RunState, Unit, UnitState
from tests.support import checks
from tests.support.deployed import Requested, Worker, gone, held_up, kill, running, wait
from tests.support.runs import Curate

WORK = {"tasks_in_flight": 1, "shards_per_task": 1, "lease_seconds": 3600}


@pytest.fixture(scope="module")
def worker(deployments: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    """A worker with the session's servers, which the last test kills."""
    worker = Worker(deployments, tmp_path_factory.mktemp("worker") / "worker.log")
    yield worker
    worker.kill()


def test_curate_and_retry(servers: str, worker: Worker, tmp_path: Path) -> None:
    """A run with a broken shard, then its retry after the shard is fixed."""
    write_sample(tmp_path, samples=60, shards=2, seed=8)
    tar, output = tmp_path / "shards" / "00001.tar", tmp_path / "out"
    whole = tar.read_bytes()
    tar.write_bytes(whole[: len(whole) // 2])
    recipe = {"sources": [str(tmp_path / "shards")], "output": str(output), "audit": {"queries": 0}}
    Requested("curate", recipe=recipe).until("CompletedWithFailures")
    first = checks.summary(output)
    assert first["state"] == RunState.COMPLETED_WITH_FAILURES.value

    tar.write_bytes(whole)
    Requested("retry", run=str(output)).until("Completed")
    second = checks.summary(output)
    assert (second["run"], second["state"]) == (first["run"], RunState.COMPLETED.value)
    checks.accounts_balance(output, {t.stem: t for t in (tmp_path / "shards").glob("*.tar")})
    with closing(Ledger.open(servers)) as ledger:
        run = ledger.runs.get(first["run"])
    assert run is not None and run.state is RunState.COMPLETED


def nothing_is_held(ledger: Ledger, output: Path, mine: Unit, state: RunState) -> str:
    """The run has ended in the ledger, and only the test's unit is leased. Returns the run's id."""
    run = ledger.runs.of_output(str(output))
    assert run is not None and (run.state, run.holder) == (state, None), run
    units = ledger.units.results(EMBED, mine.scope, None)
    assert [key for key, unit in units.items() if unit.state is UnitState.RUNNING] == [mine.key]
    return run.id


def test_cancelled_killed_and_cancelled_without_a_worker(
    servers: str, worker: Worker, curate: Curate, tmp_path: Path
) -> None:
    """A live worker cancels; a killed flow is Crashed, and its retry need not wait for the lease of an hour;
    with the worker dead, the flow goes on, and ends itself when it is cancelled."""
    write_sample(tmp_path, samples=120, shards=6, seed=4)
    source, output = tmp_path / "shards", tmp_path / "out"
    parts: dict[str, Any] = {"audit": {"queries": 0}, "work": WORK}
    with closing(Ledger.open(servers)) as ledger:
        first = Requested("curate", recipe={"sources": [str(source)], "output": str(output), **parts})
        mine = held_up(ledger, running(ledger, output))
        first.cancel()
        assert "cancelled" in str(first.until("Cancelled").message).lower()
        wait(lambda: gone(first.pid), "the end of the process")
        run = nothing_is_held(ledger, output, mine, RunState.CANCELLED)
        assert first.unfinished_tasks() == 0

        second = Requested("retry", run=str(first.id))
        seen = running(ledger, output)
        assert seen.id == run
        kill(second.pid)
        second.until("Crashed")

        third = Requested("retry", run=str(output))
        assert running(ledger, output, other=seen.holder).id == run
        worker.kill()  # nobody reads what the flow prints from here on
        wait(lambda: third.state.message == f"run {run}" or None, "its message", lambda: third.state)
        wait(lambda: True if second.unfinished_tasks() == 0 else None, "the end of the task runs")
        wait(lambda: third.tasks() or None, "a task", lambda: third.state)
        third.cancel()
        third.until("Cancelled")
        wait(lambda: gone(third.pid), "the end of the process")
        nothing_is_held(ledger, output, mine, RunState.CANCELLED)
        assert third.unfinished_tasks() == 0

        ledger.units.fail(mine, StorageFailed("given back"), 0)
    summary = curate(source, output=output, **parts)
    assert (summary["run"], summary["state"]) == (run, RunState.COMPLETED.value)
    checks.accounts_balance(output, {t.stem: t for t in source.glob("*.tar")})
