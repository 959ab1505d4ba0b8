"""A worker inside a job: executes runs of the pool one after the other until the walltime nears."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any
from uuid import UUID

import anyio
from anyio.abc import TaskStatus
from prefect.client.schemas.objects import FlowRun

from flows.pbs.batch import Job
from flows.pbs.execute import End, execute
from flows.pbs.outcome import SERVED
from flows.pbs.pool import PbsJob
from flows.pbs.worker import PbsResult, PbsWorker

LEAST_MARGINS = 3  # a run is taken only while so many margins are left before the job's end
TICK_SECONDS = 0.5


class Server(PbsWorker):
    """Takes the runs of a `made-pbs` pool, as the worker on the login node does, and executes them here."""

    end = End(0.0, 0.0)  # of the job's walltime
    last_call = 0.0  # no run is taken after it
    stop: Callable[[], bool] = staticmethod(lambda: False)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.executing: set[UUID] = set()

    @classmethod
    def __dispatch_key__(cls) -> str:
        return "made-pbs-serve"  # beside the worker that `prefect worker start --type made-pbs` starts

    async def run(
        self, flow_run: FlowRun, configuration: PbsJob, task_status: TaskStatus[Any] | None = None
    ) -> PbsResult:
        """Executes the flow run on this job's cluster and returns when it has ended or was handed back."""
        job = os.environ.get("PBS_JOBID", "?")
        self.executing.add(flow_run.id)
        try:
            await self.client.update_flow_run(flow_run.id, infrastructure_pid=SERVED + job)
            if task_status is not None:
                task_status.started(SERVED + job)
            await execute(flow_run.id, job, self.end, configuration.resumes, self.stop, served=True)
        finally:
            self.executing.discard(flow_run.id)
        return PbsResult(identifier=SERVED + job, status_code=0)

    @property
    def is_over(self) -> bool:
        """Whether no further run is taken."""
        return self.stop() or time.time() >= self.last_call

    async def get_and_submit_flow_runs(self) -> list[FlowRun]:
        """Takes a run that is due, unless the walltime is near."""
        return [] if self.is_over else await super().get_and_submit_flow_runs()

    async def _settle(self, job: Job, flow_run_id: UUID) -> None:
        if flow_run_id not in self.executing:  # these report their end themselves
            await super()._settle(job, flow_run_id)


async def serve(pool: str, end: End, stop: Callable[[], bool]) -> None:
    """Serves runs of the pool, one at a time, until the walltime nears or `stop()` is true.

    The run that is being executed then is handed back before the job ends (`flows.pbs.execute`).
    """
    worker = Server(pool, limit=1, name=f"PBS job {os.environ.get('PBS_JOBID', '?')}")
    worker.end, worker.stop = end, stop
    worker.last_call = end.at - LEAST_MARGINS * (end.at - end.hand_back)
    async with anyio.create_task_group() as group:
        group.start_soon(worker.start)
        while not (worker.is_over and not worker.executing and not worker._submitting_flow_run_ids):
            await anyio.sleep(TICK_SECONDS)
        group.cancel_scope.cancel()
