"""Runs of the deployments by a worker, and what happens to their processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.objects import State, StateType
from prefect.states import Cancelling

from made_core.ledger.ledger import Ledger
from made_core.ledger.records import Run
from made_core.stages import EMBED
from made_core.types import Unit
from tests.support import checks

PREFECT = Path(sys.executable).with_name("prefect")
PATIENCE = 240.0  # seconds: other tests may share the machine
LOOK = 0.5  # seconds between two looks at Prefect, which cost 50 ms of CPU each
FoundT = TypeVar("FoundT")


def wait(
    until: Callable[[], FoundT | None], what: str, seen: Callable[[], object] = str, pause: float = 0.1
) -> FoundT:
    """The first result that is not None, looked for every `pause` seconds; `seen`: what there is instead."""
    deadline = time.monotonic() + PATIENCE
    while (found := until()) is None:
        assert time.monotonic() < deadline, f"waited {PATIENCE:g} s for {what}: {seen()}"
        time.sleep(pause)
    return found


def gone(pid: int) -> bool | None:
    """True if there is no such process; None: there is."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return True
    return True if stat.rpartition(")")[2].split()[0] == "Z" else None


class Worker:
    """A worker of the pool `made`."""

    def __init__(self, environ: dict[str, str], log: Path) -> None:
        more = {
            "PREFECT_WORKER_QUERY_SECONDS": "1",
            "PREFECT_RUNNER_HEARTBEAT_FREQUENCY": "30",
            "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "INFO",  # the default: flows write to the worker
        }
        command = [str(PREFECT), "worker", "start", "--pool", "made"]
        with log.open("wb") as out:
            self.process = subprocess.Popen(
                command, env={**environ, **more}, cwd=checks.ROOT, stdout=out, stderr=out
            )

    def kill(self) -> None:
        """Ends it without notice."""
        self.process.kill()
        self.process.wait()


class Requested:
    """A flow run of a deployment."""

    def __init__(self, deployment: str, **parameters: Any) -> None:
        with get_client(sync_client=True) as client:
            found = client.read_deployment_by_name(f"made/{deployment}")
            self.id: UUID = client.create_flow_run_from_deployment(found.id, parameters=parameters).id

    @property
    def state(self) -> State[Any]:
        """Its state in Prefect."""
        with get_client(sync_client=True) as client:
            state = client.read_flow_run(self.id).state
        assert state is not None
        return state

    def until(self, *names: str) -> State[Any]:
        """Waits for a state of one of these names; fails if it ends in another."""

        def found() -> State[Any] | None:
            state = self.state
            assert state.name in names or not state.is_final(), state
            return state if state.name in names else None

        return wait(found, " or ".join(names), lambda: repr(self.state), LOOK)

    @property
    def pid(self) -> int:
        """Of its process, once the worker has started it."""

        def found() -> int | None:
            with get_client(sync_client=True) as client:
                place = client.read_flow_run(self.id).infrastructure_pid
            return int(place.rpartition(":")[2]) if place else None

        return wait(found, "the process of the flow run", pause=LOOK)

    def set(self, state: State[Any]) -> None:
        """Asks for a state, as the UI does."""
        with get_client(sync_client=True) as client:
            client.set_flow_run_state(self.id, state)

    def cancel(self) -> None:
        """Cancels it."""
        self.set(Cancelling())

    def tasks(self) -> list[StateType | None]:
        """The states of its task runs."""
        of = FlowRunFilter(id=FlowRunFilterId(any_=[self.id]))
        with get_client(sync_client=True) as client:
            return [task.state_type for task in client.read_task_runs(flow_run_filter=of)]

    def unfinished_tasks(self) -> int:
        """Its task runs that Prefect takes for running."""
        return sum(state in (StateType.RUNNING, StateType.PENDING) for state in self.tasks())


def running(ledger: Ledger, output: Path, other: str | None = None) -> Run:
    """Waits until a process, not `other`, holds the run of an output and embeds."""

    def found() -> Run | None:
        run = ledger.runs.of_output(str(output))
        embeds = run is not None and any(s.stage == EMBED.name for s in ledger.progress.of(run.id))
        return run if run is not None and run.held and run.holder != other and embeds else None

    return wait(found, "a run that embeds")


def held_up(ledger: Ledger, run: Run) -> Unit:
    """Takes one of the run's shards, so that the run cannot end."""
    [status] = [s for s in ledger.progress.of(run.id) if s.stage == EMBED.name]
    keys = [shard.fingerprint for shard in ledger.runs.shards(run.id)]
    units = ledger.units.claim(EMBED, status.scope, sorted(keys, reverse=True), 1, 86_400, "the test:1")
    assert units, "every shard was taken or done before the test took one"
    return units[0]


def kill(pid: int) -> None:
    """Ends a process without notice."""
    os.kill(pid, signal.SIGKILL)
