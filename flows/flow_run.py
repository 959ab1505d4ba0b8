"""The Prefect flow run that this process executes: its name, tags and states as people see them.

Prefect's server may be away for a while: then what it shows is not up to date, and the run continues.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from uuid import UUID

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterId,
    FlowRunFilterState,
    FlowRunFilterStateType,
    FlowRunFilterTags,
    TaskRunFilter,
    TaskRunFilterState,
    TaskRunFilterStateType,
)
from prefect.client.schemas.objects import State, StateType, TaskRun
from prefect.context import FlowRunContext
from prefect.exceptions import PrefectException
from prefect.states import Cancelled, Crashed, Running

logger = logging.getLogger("prefect.made")
TAG = "made-run:"  # and the ledger's run id
WAITING = "WaitingForOutput"  # name of the state while another run writes the output
PAGE = 200  # runs per request: Prefect's limit
LIVE = [StateType.RUNNING, StateType.CANCELLING]


@dataclass(frozen=True)
class FlowRun:
    """The current flow run."""

    id: UUID
    deployed: bool  # requested from a deployment, and not called by a command

    @classmethod
    def current(cls) -> FlowRun:
        """The flow run of this context. Raises RuntimeError outside of a flow."""
        context = FlowRunContext.get()
        if context is None or context.flow_run is None:
            raise RuntimeError("this is for use in a flow")
        return cls(context.flow_run.id, context.flow_run.deployment_id is not None)

    def state(self) -> State | None:
        """Its state now; None if Prefect's server does not answer."""
        with _answered() as client:
            return client.read_flow_run(self.id).state
        return None

    def rename(self, name: str) -> None:
        """Gives it a name."""
        with _answered() as client:
            client.set_flow_run_name(self.id, name)

    def running(self, message: str, name: str = "Running") -> None:
        """Says in the message of its state what it does. A request to cancel or suspend it stays."""
        with _answered() as client:
            client.set_flow_run_state(self.id, Running(name=name, message=message))

    def belongs_to(self, run: str) -> None:
        """Tags it with the run of the ledger, which it now holds, and closes what earlier processes left.

        Their flow runs and task runs cannot be running: only one process holds a run. They are Crashed, or
        Cancelled if that was requested. Flow runs that have ended stay as they are.
        """
        tag = f"{TAG}{run}"
        with _answered() as client:
            tags = client.read_flow_run(self.id).tags
            client.update_flow_run(self.id, tags=sorted({*tags, tag}))
            tagged = FlowRunFilterTags(all_=[tag])
            live = FlowRunFilterState(type=FlowRunFilterStateType(any_=LIVE))
            for other in client.read_flow_runs(
                flow_run_filter=FlowRunFilter(tags=tagged, state=live), limit=PAGE
            ):
                if other.id != self.id:
                    cancelled = other.state is not None and other.state.is_cancelling()
                    ended = Cancelled if cancelled else Crashed
                    client.set_flow_run_state(other.id, ended(message=f"its process died; run {run} goes on"))
            close_tasks(
                client, FlowRunFilter(tags=tagged), Crashed(message="the process of its flow run died")
            )

    def close_tasks(self, state: State) -> None:
        """Ends its task runs that Prefect takes for running."""
        with _answered() as client:
            close_tasks(client, FlowRunFilter(id=FlowRunFilterId(any_=[self.id])), state)


def close_tasks(client: SyncPrefectClient, of: FlowRunFilter, state: State) -> None:
    """Ends the running and pending task runs of some flow runs."""
    unfinished = TaskRunFilterState(type=TaskRunFilterStateType(any_=[StateType.RUNNING, StateType.PENDING]))
    wanted = TaskRunFilter(state=unfinished)
    found: list[TaskRun] = []
    while page := client.read_task_runs(
        flow_run_filter=of, task_run_filter=wanted, limit=PAGE, offset=len(found)
    ):
        found += page
    for task_run in found:
        client.set_task_run_state(task_run.id, state, force=True)


def run_of(flow_run: UUID) -> str | None:
    """The ledger's run that a flow run worked on; None: there is no such flow run, or it had none.

    Raises:
        httpx.HTTPError: Prefect's server does not answer.
    """
    with get_client(sync_client=True) as client:
        found = client.read_flow_runs(flow_run_filter=FlowRunFilter(id=FlowRunFilterId(any_=[flow_run])))
    tags = [tag for each in found for tag in each.tags if tag.startswith(TAG)]
    return tags[-1].removeprefix(TAG) if tags else None


@contextmanager
def _answered() -> Iterator[SyncPrefectClient]:
    """A client; an error of Prefect's server ends the context, and is only noted."""
    try:
        with get_client(sync_client=True) as client:
            yield client
    except (httpx.HTTPError, PrefectException, OSError):
        logger.debug("Prefect's server does not answer", exc_info=True)
