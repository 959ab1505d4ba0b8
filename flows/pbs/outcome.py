"""Which state a flow run gets when the PBS job that executed it has ended."""

from __future__ import annotations

import logging
from contextlib import closing
from datetime import datetime, timezone
from uuid import UUID

from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import FlowRun, State
from prefect.states import AwaitingRetry, Cancelled, Crashed, Failed

from flows.flow_run import TAG
from flows.pbs.batch import Cause, Job
from made_core.errors import MadeError
from made_core.ledger.ledger import Ledger
from made_core.settings import settings

log = logging.getLogger(__name__)

# A flow run's `infrastructure_pid` is the id of its job, with one of these before it:
SERVED = "serve:"  # a worker inside that job executes the run (flows/pbs/serve.py)
AFTER = "after:"  # that job has ended or will; the next one is not submitted yet


def job_of(infrastructure_pid: str) -> str:
    """The id of the job that an `infrastructure_pid` names."""
    return infrastructure_pid.removeprefix(AFTER).removeprefix(SERVED)


def has_gone_on(run: FlowRun, job_id: str) -> bool:
    """Whether another job than this one has the run. Its id may not be recorded yet when a job starts."""
    pid = run.infrastructure_pid or ""
    if pid.startswith(AFTER):
        return job_of(pid) == job_id
    return bool(pid) and job_of(pid) != job_id


async def settle(
    client: PrefectClient, flow_run_id: UUID, job: Job, resumes: int, detail: str = "", served: bool = False
) -> State | None:
    """Gives a flow run whose job has ended the state that fits, and returns it; None: it had one.

    The flow run's own end counts first: a run that reported its end, or waits for the next job, is left as
    it is, however its job ended.

    Args:
        resumes: how many further jobs may continue the run.
        detail: what else is known of the end, such as the last lines of the log.
        served: the job served many runs; this one is continued however the job ended.
    """
    flow_run = await client.read_flow_run(flow_run_id)
    state = flow_run.state
    if state is None or state.is_final() or state.is_scheduled() or state.is_paused():
        return None
    if state.is_cancelling():
        new: State = Cancelled(message=f"PBS job {job.id} has ended")
    elif served or job.cause is Cause.WALLTIME:
        new = await cut(client, flow_run, job.id, resumes)
    elif job.cause is Cause.DELETED:
        new = Cancelled(message=f"PBS job {job.id} was deleted (qdel)")
    else:
        status = "" if job.exit_status is None else f" with exit status {job.exit_status}"
        text = f"PBS job {job.id} ended{status} before the flow run reported its end"
        new = Crashed(message=": ".join(part for part in (text, detail) if part))
    await client.set_flow_run_state(flow_run_id, new, force=True)
    return new


async def cut(client: PrefectClient, flow_run: FlowRun, job_id: str, resumes: int) -> State:
    """The state of a run that the end of its job cut short: it waits for the next job, or has failed."""
    states = await client.read_flow_run_states(flow_run.id)
    before = sum(state.name == "AwaitingRetry" for state in states)
    head = f"PBS job {job_id} ended before the run did"
    if before >= resumes:
        return Failed(message=f"{head}; {before} further jobs have continued the run, the most that "
                      f"`resumes` allows: run it again, with a longer walltime")  # fmt: skip
    began = max((s.timestamp for s in states if s.is_pending()), default=None)
    if began is not None and progressed(flow_run.tags, began) is False:
        return Failed(message=f"{head}, and no unit of work was done in it: ask for a longer walltime")
    return AwaitingRetry(
        message=f"{head}; the next job continues the run ({before + 1} of at most {resumes})",
        scheduled_time=datetime.now(timezone.utc),
    )


def progressed(tags: list[str], since: datetime) -> bool | None:
    """Whether a unit of the flow run's run has ended since then; None: not known."""
    run = next((tag.removeprefix(TAG) for tag in tags if tag.startswith(TAG)), None)
    url = settings().database_url
    if run is None or url is None:
        return None
    try:
        with closing(Ledger.open(url)) as ledger:
            return any(s.finished_at is not None and s.finished_at >= since for s in ledger.progress.of(run))
    except MadeError as error:
        log.warning("run %s: its progress is not known: %s", run, error)
        return None
