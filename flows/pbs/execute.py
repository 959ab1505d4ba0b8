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
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from uuid import UUID

from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.objects import StateType
from prefect.logging.loggers import flow_run_logger
from prefect.states import Cancelled

from flows.pbs import outcome
from flows.pbs.batch import Cause, Job, Phase
from made_core.io import files

KILL_SECONDS = 3.0  # PBS kills a deleted job after 10 s, and the cluster needs some of them


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
    """Executes the flow run in a process of its own until it ends, and returns 0 if it completed.

    At `end.hand_back` the run is handed back: its process ends, its units are open again, and it waits for
    the next job. Where `stop()` is true the job is being deleted, and the run is Cancelled.

    Args:
        job_id: the PBS job that this process belongs to.
        end: of the job's walltime.
        resumes: how many further jobs may continue the run.
        served: the job serves many runs: where it is deleted, another job continues this one.
    """
    command = [sys.executable, "-m", "prefect", "flow-run", "execute", str(flow_run_id)]
    # On SIGTERM `prefect flow-run execute` stops the flow's process and reports no state of its own where the
    # run has one that lasts; else the run would be called Crashed.
    environment = {**os.environ, "PREFECT_FLOW_RUN_EXECUTE_SIGTERM_BEHAVIOR": "reschedule"}
    # In an empty folder: Prefect copies the current one for each run, and a job starts in $HOME.
    with files.scratch() as empty:
        async with get_client() as client:
            began = (await client.read_flow_run(flow_run_id)).state
            process = await asyncio.create_subprocess_exec(
                *command, cwd=empty, env=environment, start_new_session=True
            )
            try:
                cause = await _watch(process, end.hand_back, stop, served)
                if cause is not None:
                    await _before(client, flow_run_id, job_id, cause, resumes)
                    process.terminate()
                    left = KILL_SECONDS if stop() else max(1.0, end.at - time.time() - KILL_SECONDS)
                    await asyncio.wait_for(asyncio.shield(process.wait()), left)
            except asyncio.TimeoutError:
                print(f"the process of flow run {flow_run_id} did not end in time: killed", file=sys.stderr)
            finally:
                _kill_group(process.pid)
                await process.wait()
            states = await client.read_flow_run_states(flow_run_id)
            if any(s.is_scheduled() and began is not None and s.timestamp > began.timestamp for s in states):
                return 0  # handed back; a worker may have taken it up already
            # A run that has not reported its end: its process died, or was stopped before it could.
            job = Job(job_id, Phase.ENDED, cause or Cause.EXIT, process.returncode)
            state = await outcome.settle(client, flow_run_id, job, resumes)
            if state is not None:
                print(f"flow run {flow_run_id}: {state.name}: {state.message}", flush=True)
            now = (await client.read_flow_run(flow_run_id)).state
            return 0 if now is not None and (now.is_completed() or now.is_scheduled()) else 1


async def _watch(
    process: asyncio.subprocess.Process, hand_back: float, stop: Callable[[], bool], served: bool
) -> Cause | None:
    """Waits for the end of the process, the time to hand back or a stop; None: the process ended."""
    while process.returncode is None:
        if stop():
            return Cause.WALLTIME if served or time.time() >= hand_back else Cause.DELETED
        if time.time() >= hand_back:
            return Cause.WALLTIME
        await asyncio.sleep(0.2)
    return None


async def _before(client: PrefectClient, flow_run_id: UUID, job_id: str, cause: Cause, resumes: int) -> None:
    """The state of a run whose process is about to be stopped, where it is to be a final one."""
    flow_run = await client.read_flow_run(flow_run_id)
    if flow_run.state is None or flow_run.state.is_final():
        return
    if cause is Cause.WALLTIME and not flow_run.state.is_cancelling():
        new = await outcome.cut(client, flow_run, job_id, resumes)
        flow_run_logger(flow_run).info(new.message)
        if new.type is StateType.SCHEDULED:
            return  # reported by `prefect flow-run execute`, with its process stopped
    else:
        new = Cancelled(message=f"PBS job {job_id} was deleted (qdel)")
    await client.set_flow_run_state(flow_run_id, new, force=True)


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
