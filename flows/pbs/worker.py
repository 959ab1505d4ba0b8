"""The worker of pools of type `made-pbs`: each flow run becomes a PBS job, and its end a state.

Nothing is kept in memory that matters: a flow run's `infrastructure_pid` is its job. Every poll looks at the
pool's flow runs and their jobs, so a worker that is restarted goes on where the last one stopped.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import Any
from uuid import UUID

import anyio
from anyio.abc import TaskStatus
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
    WorkPoolFilter,
    WorkPoolFilterName,
)
from prefect.client.schemas.objects import FlowRun, State, StateType
from prefect.exceptions import InfrastructureNotAvailable, InfrastructureNotFound, ObjectNotFound
from prefect.states import AwaitingRetry, Cancelled
from prefect.workers.base import BaseWorker, BaseWorkerResult

from flows.pbs import batch, outcome, pool, submit
from flows.pbs.batch import Cause, Job, NoAnswer, Phase
from flows.pbs.outcome import AFTER, SERVED, job_of
from flows.pbs.pool import JobVariables, PbsJob
from made_core.errors import BatchError

POLL_SECONDS = 5.0  # between two calls of qstat, at least
GRACE_SECONDS = 30.0  # in which a cancelled run may end by itself, before its job is deleted
FORGOTTEN = timedelta(minutes=2)  # a pending run without a job: its worker died before it submitted one
PAGE = 200


class PbsResult(BaseWorkerResult):
    """The job has ended; the flow run's state says how the run did."""


class PbsWorker(BaseWorker[PbsJob, Any, PbsResult]):
    """Submits a PBS job for each flow run of the pool, and watches it until it ends."""

    type = pool.POOL
    job_configuration = PbsJob
    _description = "Run the flow as a PBS job that starts its own Ray cluster."

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._jobs: dict[str, UUID] = {}  # jobs not known to have ended, and their flow runs
        self._ending: dict[str, float] = {}  # when a job was first seen whose run is to end or has ended
        self._comments: dict[str, str] = {}  # what was last logged of a waiting job
        self._looked = -POLL_SECONDS
        self._lock = asyncio.Lock()

    @classmethod
    def get_default_base_job_template(cls) -> dict[str, Any]:
        """The template of a new pool."""
        return pool.base_job_template()

    async def run(
        self, flow_run: FlowRun, configuration: PbsJob, task_status: TaskStatus[Any] | None = None
    ) -> PbsResult:
        """Submits the job and returns when it has ended. Raises BatchError if qsub refuses it."""
        submit.record(flow_run.id).unlink(missing_ok=True)
        if flow_run.infrastructure_pid:  # an earlier job of this run: two must never execute it at once
            earlier = job_of(flow_run.infrastructure_pid)
            await self.client.update_flow_run(flow_run.id, infrastructure_pid=AFTER + earlier)
            await self._ended(earlier)
            now = (await self.client.read_flow_run(flow_run.id)).state
            if now is None or not now.is_pending():
                raise BatchError(f"the run is {now.name if now else 'gone'}: no job is submitted")
        try:
            job = await asyncio.to_thread(submit.submit, flow_run.id, configuration)
        except NoAnswer as error:  # there may be a job: the run stays Pending, and `_adopt` looks for it
            self.get_flow_run_logger(flow_run).warning("%s; looking for the job", error)
            if task_status is not None:
                task_status.started(error)
            return PbsResult(identifier="", status_code=0)
        await self.client.update_flow_run(flow_run.id, infrastructure_pid=job)
        self._jobs[job] = flow_run.id
        self.get_flow_run_logger(flow_run).info(
            "submitted PBS job %s; its log: %s", job, submit.log(flow_run.id, job)
        )
        if task_status is not None:
            task_status.started(job)
        while job in self._jobs:
            await anyio.sleep(POLL_SECONDS)
            await self.look()
        return PbsResult(identifier=job, status_code=0)

    async def kill_infrastructure(
        self, infrastructure_pid: str, configuration: PbsJob, grace_seconds: int = 30
    ) -> None:
        """Deletes the job and waits until it has ended: Prefect then calls the run Cancelled."""
        job = job_of(infrastructure_pid)
        if infrastructure_pid.startswith(SERVED):
            raise InfrastructureNotAvailable(f"PBS job {job} serves other runs too")
        if (await _query([job]))[job].phase is Phase.ENDED:
            raise InfrastructureNotFound(f"PBS job {job} has ended")
        await asyncio.to_thread(batch.delete, job)
        await self._ended(job)

    async def get_and_submit_flow_runs(self) -> list[FlowRun]:
        """Settles the runs whose jobs have ended, then submits those that are due."""
        if self._has_successfully_synced:
            await self.look()
        return await super().get_and_submit_flow_runs()

    async def look(self) -> None:
        """Compares the pool's flow runs with their jobs, at most every `POLL_SECONDS`."""
        async with self._lock:
            if time.monotonic() - self._looked < POLL_SECONDS:
                return
            try:
                await self._look()
            except BatchError as error:  # nothing is known about the jobs: nothing is concluded
                self._logger.warning("%s; trying again", error)
            self._looked = time.monotonic()

    async def _look(self) -> None:
        mine = dict(self._jobs)  # before the runs are read: the run of a job in it has the job's id
        runs = [run async for run in self._active()]
        watched = [(run, _job(run)) for run in runs if _job(run)]
        for run in runs:
            if not _job(run):
                await self._adopt(run)
        jobs = await _query(list({*mine, *(job_id for _, job_id in watched)}))
        for run, job_id in watched:
            job = jobs[job_id]
            if job.phase is Phase.ENDED:
                await self._settle(job, run.id)
            elif not _is_served(run):
                if run.state is None or run.state.is_cancelling():
                    await self._end(job)
                else:
                    self._jobs.setdefault(job.id, run.id)
                    self._tell(job, run)
        for job_id in set(mine) - {known for _, known in watched}:  # of runs that have ended
            job = jobs[job_id]
            await (self._settle(job, mine[job_id]) if job.phase is Phase.ENDED else self._end(job))

    async def _settle(self, job: Job, flow_run_id: UUID) -> None:
        """Gives the run of an ended job its state."""
        for known in (self._jobs, self._ending, self._comments):
            known.pop(job.id, None)
        submit.settled(flow_run_id, job.id)
        try:
            run = await self.client.read_flow_run(flow_run_id)
        except ObjectNotFound:  # the run was deleted in Prefect
            return
        if _job(run) == job.id and run.id not in self._submitting_flow_run_ids:  # else a later job has it
            if job.cause is Cause.UNKNOWN:
                job = replace(job, cause=submit.cause(run.id, job.id))
            detail = submit.last_lines(submit.log(run.id, job.id))
            state = await outcome.settle(
                self.client, run.id, job, await self._resumes(run), detail, _is_served(run)
            )
            if state is not None:
                self.get_flow_run_logger(run).info("%s: %s", state.name, state.message)

    async def _end(self, job: Job) -> None:
        """Deletes the job of a run that is cancelled or over: at once if it waits, else after a grace."""
        since = self._ending.setdefault(job.id, time.monotonic())
        if job.phase is Phase.WAITING or time.monotonic() - since > GRACE_SECONDS:
            try:
                await asyncio.to_thread(batch.delete, job.id)
            except BatchError as error:  # tried again at the next look
                self._logger.warning("%s", error)

    async def _adopt(self, run: FlowRun) -> None:
        """A run without a recorded job: finds the job that a dead worker submitted, or schedules it again."""
        state = run.state
        if state is None or run.id in self._submitting_flow_run_ids:
            return
        if datetime.now(timezone.utc) - state.timestamp < FORGOTTEN:
            return
        record = submit.record(run.id)
        job = record.read_text(encoding="utf-8").strip() if record.exists() else ""
        if not job and record.exists():  # qsub was started, and its answer is not known
            if time.time() - record.stat().st_mtime < FORGOTTEN.total_seconds():
                return
            job = next(iter(await asyncio.to_thread(batch.named, pool.job_name(str(run.id)))), "")
            if job:
                record.write_text(job, encoding="utf-8")
        if job:
            await self.client.update_flow_run(run.id, infrastructure_pid=job)
        elif state.is_cancelling():
            submit.settled(run.id, None)  # what a worker left that died before qsub
            done: State = Cancelled(message="cancelled before a PBS job was submitted")
            await self.client.set_flow_run_state(run.id, done, force=True)
        elif state.is_pending():
            again: State = AwaitingRetry(
                message="no PBS job: the worker ended before qsub did, or qsub failed"
            )
            await self.client.set_flow_run_state(run.id, again, force=True)

    def _tell(self, job: Job, run: FlowRun) -> None:
        """Logs once to the flow run what PBS says about its waiting job."""
        if job.phase is Phase.WAITING and job.comment and self._comments.get(job.id) != job.comment:
            self._comments[job.id] = job.comment
            self.get_flow_run_logger(run).info("PBS job %s waits: %s", job.id, job.comment)

    async def _active(self) -> Any:
        """The pool's flow runs that are pending, running or being cancelled."""
        types = [StateType.PENDING, StateType.RUNNING, StateType.CANCELLING]
        offset = 0
        while True:
            page = await self.client.read_flow_runs(
                flow_run_filter=FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=types))),
                work_pool_filter=WorkPoolFilter(name=WorkPoolFilterName(any_=[self._work_pool_name])),
                limit=PAGE, offset=offset,
            )  # fmt: skip
            for run in page:
                yield run
            if len(page) < PAGE:
                return
            offset += PAGE

    async def _resumes(self, run: FlowRun) -> int:
        try:
            configuration = await PbsJob.resolve_for_flow_run(
                run, client=self.client, work_pool=self.work_pool, worker_name=self.name
            )
        except (ObjectNotFound, ValueError):  # the deployment is gone, or its variables are no longer valid
            return JobVariables().resumes
        return configuration.resumes

    async def _ended(self, job: str) -> None:
        """Waits until a job has ended."""
        while True:
            try:
                if (await _query([job]))[job].phase is Phase.ENDED:
                    return
            except BatchError as error:
                self._logger.warning("%s; trying again", error)
            await anyio.sleep(POLL_SECONDS)


def _job(run: FlowRun) -> str:
    """The job that executes a run; empty if none is submitted yet."""
    pid = run.infrastructure_pid or ""
    return "" if pid.startswith(AFTER) else job_of(pid)


def _is_served(run: FlowRun) -> bool:
    """Whether the run is executed by a job that serves many, and must not be deleted for this one."""
    return (run.infrastructure_pid or "").startswith(SERVED)


async def _query(ids: list[str]) -> dict[str, Job]:
    return await asyncio.to_thread(batch.query, ids)
