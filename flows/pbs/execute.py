"""Inside a PBS job: executes one flow run, and hands it back before the walltime.

`python -m flows.pbs.execute FLOW_RUN_ID --until TIME`, where TIME is that of the job's end, in Unix seconds.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar
from uuid import UUID

import httpx
from prefect.client.orchestration import get_client
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, wait_exponential

from flows.lasting import end_with_parent
from flows.pbs import outcome
from flows.pbs.batch import Cause, Job, Phase
from made_core.io import files

TERMINATED = 143  # exit code, as of a shell that SIGTERM ended
KILL_SECONDS = 3.0  # PBS kills a deleted job after 10 s, and the cluster needs some of them
PATIENCE_SECONDS = 300.0  # in which a Prefect server that is restarted answers again
PAUSE_SECONDS = 4.0  # at most, between two attempts to reach it: PBS may end the job meanwhile

T = TypeVar("T")


@dataclass(frozen=True)
class End:
    """The end of a job's walltime, Unix time."""

    at: float
    hand_back: float  # when a run that is still executed is handed back

    @classmethod
    def of(cls, at: float) -> End:
        """Hands back when the launcher says, else a twentieth of what is left before, but 20 to 120 s."""
        said = os.environ.pop("MADE_STOP_AT", None)  # the flow must not stop itself as well
        before = at - min(120.0, max(20.0, (at - time.time()) / 20))
        return cls(at, float(said) if said else before)


async def execute(
    flow_run_id: UUID,
    job_id: str,
    end: End,
    resumes: int,
    stop: Callable[[], bool],
    served: bool = False,
) -> int:
    """Executes the flow run in a process of its own until it ends; 0 if it completed or was handed back.

    A run that has ended, or that another job has, is not executed.

    At `end.hand_back` the run is handed back: its process ends, its units are open again, and it waits for
    the next job. Where `stop()` is true PBS ends the job, by qdel or at the walltime: only PBS knows which,
    so the worker gives the run its state once the job has ended.

    Args:
        job_id: the PBS job that this process belongs to.
        end: of the job's walltime.
        resumes: how many further jobs may continue the run.
        served: the job serves many runs: where it is deleted, another job continues this one.
    """
    if why := await _patiently(lambda: _refusal(flow_run_id, job_id), time.time(), stop):
        print(f"flow run {flow_run_id} is not executed: {why}", file=sys.stderr, flush=True)
        return 1
    command = [sys.executable, "-m", "prefect", "flow-run", "execute", str(flow_run_id)]
    # On SIGTERM `prefect flow-run execute` ends the flow's process and reports no state: that is done here.
    environment = {**os.environ, "PREFECT_FLOW_RUN_EXECUTE_SIGTERM_BEHAVIOR": "relinquish"}
    # In an empty folder: Prefect copies the current one for each run, and a job starts in $HOME.
    with files.scratch() as empty:
        process = await asyncio.create_subprocess_exec(
            *command, cwd=empty, env=environment, start_new_session=True, preexec_fn=end_with_parent
        )
        cut = await _watch(process, end.hand_back, stop)
        try:
            if cut:
                process.terminate()
                left = KILL_SECONDS if stop() else max(1.0, end.at - time.time() - KILL_SECONDS)
                await asyncio.wait_for(asyncio.shield(process.wait()), left)
        except asyncio.TimeoutError:
            print(f"the process of flow run {flow_run_id} did not end in time: killed", file=sys.stderr)
        finally:
            _kill_group(process.pid)
            await process.wait()
    if cut and stop() and not served:
        return TERMINATED
    job = Job(job_id, Phase.ENDED, Cause.WALLTIME if cut else Cause.EXIT, process.returncode)
    try:
        return await _patiently(
            lambda: _settle(flow_run_id, job, resumes, served and cut), end.at if cut else time.time(), stop
        )
    except httpx.HTTPError as error:
        print(f"flow run {flow_run_id} keeps its state: Prefect's server does not answer: {error!r}",
              file=sys.stderr)  # fmt: skip
        return TERMINATED if cut and stop() else 1  # PBS knows when the job was ended: see above


async def _refusal(flow_run_id: UUID, job_id: str) -> str:
    """Why this job must not execute the run, such as one that PBS started late; empty: it may.

    Prefect itself lets a run that has crashed or failed run again.
    """
    async with get_client() as client:
        run = await client.read_flow_run(flow_run_id)
    if run.state is not None and run.state.is_final():
        return f"it is {run.state.name}"
    return f"PBS job {run.infrastructure_pid} has it" if outcome.has_gone_on(run, job_id) else ""


async def _settle(flow_run_id: UUID, job: Job, resumes: int, served: bool) -> int:
    """Gives the run the state that fits; 0 if it completed or was handed back."""
    async with get_client() as client:
        if outcome.has_gone_on(await client.read_flow_run(flow_run_id), job.id):
            return 0  # it was handed back by an attempt whose answer was lost
        state = await outcome.settle(client, flow_run_id, job, resumes, served=served)
        if state is not None:
            print(f"flow run {flow_run_id}: {state.name}: {state.message}", flush=True)
        now = (await client.read_flow_run(flow_run_id)).state
    return 0 if now is not None and (now.is_completed() or now.is_scheduled()) else 1


async def _patiently(call: Callable[[], Awaitable[T]], since: float, stop: Callable[[], bool]) -> T:
    """Calls Prefect's server, again while it is away: for `PATIENCE_SECONDS` from `since`, or until `stop()`.

    Raises:
        httpx.HTTPError: it did not answer.
    """

    def say(state: RetryCallState) -> None:
        if state.attempt_number == 1 and state.outcome is not None:
            error = state.outcome.exception()
            print(f"Prefect's server does not answer ({error!r}): trying again", flush=True)

    async def once() -> T:  # of a lambda, AsyncRetrying does not await the result
        return await call()

    found: T = await AsyncRetrying(
        retry=retry_if_exception(_is_away), wait=wait_exponential(max=PAUSE_SECONDS), before_sleep=say,
        stop=lambda _: stop() or time.time() >= since + PATIENCE_SECONDS, reraise=True,
    )(once)  # fmt: skip
    return found


def _is_away(error: BaseException) -> bool:
    if isinstance(error, httpx.HTTPStatusError):  # 503: its database is away
        return error.response.status_code >= 500
    return isinstance(error, httpx.TransportError)


async def _watch(process: asyncio.subprocess.Process, hand_back: float, stop: Callable[[], bool]) -> bool:
    """Waits for the end of the process, the time to hand back or a stop. Returns whether it was cut short."""
    while process.returncode is None:
        if stop() or time.time() >= hand_back:
            return True
        await asyncio.sleep(0.2)
    return False


def _kill_group(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


def main() -> None:
    """Entry point of `python -m flows.pbs.execute`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("flow_run", type=UUID, help="id of the flow run")
    parser.add_argument("--until", type=float, required=True, help="when the job's walltime ends, Unix time")
    parser.add_argument("--resumes", type=int, default=0, help="how many further jobs may continue the run")
    given = parser.parse_args()
    stopped = False

    def stop(*_: object) -> None:
        nonlocal stopped
        stopped = True

    signal.signal(signal.SIGTERM, stop)
    job = os.environ.get("PBS_JOBID", "?")
    sys.exit(asyncio.run(execute(given.flow_run, job, End.of(given.until), given.resumes, lambda: stopped)))


if __name__ == "__main__":
    main()
