"""The worker: `python -m flows.service.worker NAME RUNS`.

Before it starts, flow runs whose process died with an earlier worker are closed: Prefect would show them as
running for ever, and count them against the number of runs at once. With PREFECT_WORKER_WEBSERVER_PORT, the
worker answers /health there.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Collection
from typing import Any

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
    WorkPoolFilter,
    WorkPoolFilterName,
)
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.states import Cancelled, Crashed, Scheduled

from flows.service import processes
from flows.service.register import POOL

LEFT_SECONDS = 15.0  # for Ray's processes of a flow that was killed
QUERY_SECONDS = "2"  # between two looks for scheduled runs, unless PREFECT_WORKER_QUERY_SECONDS is set
LOST = "Its process ended with the worker. Start it again, or use Retry, to resume."


def close_lost(client: SyncPrefectClient, name: str, living: Collection[str]) -> list[FlowRun]:
    """Gives flow runs that have no process an end. Returns them.

    Nothing happens while workers of other names are online: their runs have processes elsewhere.

    Args:
        name: of this machine's worker.
        living: ids of the flow runs that have a process on this machine.
    """
    online = [w for w in client.read_workers_for_work_pool(POOL) if w.status == "ONLINE" and w.name != name]
    if online:
        return []
    types = [StateType.RUNNING, StateType.PENDING, StateType.CANCELLING]
    unended = client.read_flow_runs(
        flow_run_filter=FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=types))),
        work_pool_filter=WorkPoolFilter(name=WorkPoolFilterName(any_=[POOL])),
    )
    closed = []
    for run in unended:
        if str(run.id) in living:
            continue
        state: State[Any]
        if run.state_type is StateType.CANCELLING:
            state = Cancelled(message="Its process had ended.")
        elif run.state_type is StateType.PENDING:  # no process was started yet
            state = Scheduled()
        else:
            state = Crashed(message=LOST)
        client.set_flow_run_state(run.id, state, force=True)
        closed.append(run)
    return closed


def main() -> None:
    """Closes lost runs, then becomes Prefect's worker."""
    name, runs = sys.argv[1:]
    mark = os.environ[processes.MARK]
    with get_client(sync_client=True) as client:
        closed = close_lost(client, name, processes.runs(mark))
    for run in closed:
        print(f"flow run {run.name}: its process had ended with an earlier worker", flush=True)
    processes.end_all(processes.left_by(mark, {str(run.id) for run in closed}), LEFT_SECONDS)
    os.environ.setdefault("PREFECT_WORKER_QUERY_SECONDS", QUERY_SECONDS)
    health = ["--with-healthcheck"] if "PREFECT_WORKER_WEBSERVER_PORT" in os.environ else []
    os.execv(
        sys.executable,
        [sys.executable, "-m", "prefect", "worker", "start", "--pool", POOL, "--name", name,
         "--limit", runs, "--install-policy", "never", *health],
    )  # fmt: skip


if __name__ == "__main__":
    main()
