"""A flow run in the work pool `made-pbs` becomes a PBS job, and however the job ends, the run gets its state.

The worker is replaced by another one as soon as it has submitted the jobs. The flow needs no cluster, so the
script that starts one is a stand-in here.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.objects import FlowRun, State
from prefect.deployments.runner import RunnerDeployment
from prefect.states import Cancelling, Pending
from prefect.types.entrypoint import EntrypointType

from flows.cli import pbs_worker
from flows.pbs import batch, submit, worker
from flows.pbs.batch import Phase
from flows.pbs.execute import End, execute
from flows.pbs.serve import serve
from flows.pbs.worker import PbsWorker
from made_core.settings import settings
from tests.support.checks import ROOT
from tests.support.pbs import desk, jobs
from tests.support.pbs.site import Host, Site
from tests.support.pbs_flow import work

SECONDS = 400
LOOK = 0.5  # seconds between two looks
ASKS: dict[str, dict[str, Any]] = {  # what each run asks of PBS
    "completes": {},
    "cancelled": {},
    "deleted": {},
    "cut": {},
    "no cluster": {"queue": "gpu"},
    "refused": {"queue": "nosuch"},
}
WAITS = {"cancelled": 1, "deleted": 1, "cut": 1}
CLUSTER = """
made_python() { ${made_exec:-} "$MADE_PYTHON" "$@"; }
stop_ray_cluster() { :; }
if [ "$PBS_QUEUE" = gpu ]; then echo "no driver for the GPUs" >&2; return 1; fi
"""


@dataclass(frozen=True)
class Ended:
    """A flow run that has ended."""

    run: FlowRun
    states: list[State]
    attempts: int  # how often the flow began
    folder: Path  # of its jobs

    @property
    def state(self) -> State:
        """Its last state."""
        assert self.run.state is not None
        return self.run.state


@pytest.fixture(scope="module")
def ended(servers: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Ended]]:
    """All runs, submitted together by one worker and settled by the next."""
    folder = tmp_path_factory.mktemp("pbs")
    site = Site(folder / "site", (Host("127.0.0.1", 64),), variables={"PYTHONPATH": str(ROOT)})
    (folder / "start_ray_cluster.sh").write_text(CLUSTER)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", f"{site.install()}:{os.environ['PATH']}")
        patch.setenv("MADE_PBS_FOLDER", str(folder / "jobs"))
        settings.cache_clear()
        patch.setattr(submit, "SCRIPTS", folder)
        patch.setattr(worker, "POLL_SECONDS", 0.5)
        patch.setattr(worker, "GRACE_SECONDS", 120.0)
        yield asyncio.run(_drive(folder, site))
    settings.cache_clear()


async def _drive(folder: Path, site: Site) -> dict[str, Ended]:
    async with get_client() as client, PbsWorker("pbs-test") as first:
        deployment = await (await _deployment("states")).aapply()
        ids: dict[str, UUID] = {}
        for name, variables in ASKS.items():
            run = await client.create_flow_run_from_deployment(
                deployment, job_variables=variables,
                parameters={"note": str(folder / f"{name}.note"), "waits": WAITS.get(name, 0)},
            )  # fmt: skip
            ids[name] = run.id
        end = time.monotonic() + SECONDS
        while len([r for r in await _read(client, ids) if r.infrastructure_pid]) < len(ASKS) - 1:
            assert time.monotonic() < end, "not all jobs were submitted"
            await first.get_and_submit_flow_runs()
            await asyncio.sleep(LOOK)
        _die(first)
    asked: set[str] = set()
    async with get_client() as client, PbsWorker("pbs-test") as second:
        while True:
            runs = dict(zip(ids, await _read(client, ids), strict=True))
            if all(r.state is not None and r.state.is_final() for r in runs.values()):
                _die(second)
                break
            assert time.monotonic() < end, {name: r.state for name, r in runs.items()}
            for name in {"cancelled", "deleted", "cut"} - asked:
                run, began = runs[name], (folder / f"{name}.note").exists()
                if began and run.state is not None and run.state.is_running():
                    asked.add(name)
                    if name == "cancelled":
                        await client.set_flow_run_state(run.id, Cancelling())
                    elif name == "cut":
                        _reach_walltime(site, str(run.infrastructure_pid))
                    else:
                        batch.delete(str(run.infrastructure_pid))
            await second.get_and_submit_flow_runs()
            await asyncio.sleep(LOOK)
    async with get_client() as client:
        return {
            name: Ended(
                run, await client.read_flow_run_states(run.id), _attempts(folder / f"{name}.note"),
                submit.folder(run.id),
            )
            for name, run in runs.items()
        }  # fmt: skip


async def _deployment(name: str) -> RunnerDeployment:
    made: RunnerDeployment = await work.to_deployment(  # type: ignore[misc]
        name, work_pool_name="pbs-test", entrypoint_type=EntrypointType.MODULE_PATH
    )
    return made


def _reach_walltime(site: Site, job: str) -> None:
    """The walltime of a running job is over now."""
    with site.locked():
        known = jobs.load(site, job)
        assert known is not None
        known.walltime = 1
        jobs.save(site, known)


def _die(some: PbsWorker) -> None:
    """Ends a worker without letting it wait for its jobs."""
    assert some._runs_task_group is not None
    some._runs_task_group.cancel_scope.cancel()


async def _read(client: PrefectClient, ids: dict[str, UUID]) -> list[FlowRun]:
    return [await client.read_flow_run(i) for i in ids.values()]


def _attempts(note: Path) -> int:
    return len(note.read_text().splitlines()) if note.exists() else 0


def test_a_run_becomes_a_job_and_completes(ended: dict[str, Ended]) -> None:
    run = ended["completes"]
    assert (run.state.name, run.attempts) == ("Completed", 1), run.state.message
    job = batch.query([str(run.run.infrastructure_pid)])[str(run.run.infrastructure_pid)]
    assert (job.phase, job.exit_status) == (Phase.ENDED, 0)


def test_no_secret_stays(ended: dict[str, Ended]) -> None:
    """However the run ended: also where no job began, or a later one continued it."""
    for name, run in ended.items():
        assert (run.folder / "job.sh").exists() and not (run.folder / "environment").exists(), name
        assert "DATABASE_URL" not in (run.folder / "job.sh").read_text()


def test_cancelling_a_run_ends_its_job(ended: dict[str, Ended]) -> None:
    run = ended["cancelled"]
    assert (run.state.name, run.attempts) == ("Cancelled", 1)
    job = str(run.run.infrastructure_pid)
    # Inside the job, Prefect cancels the run before the job's script ends.
    desk.until(lambda: batch.query([job])[job].phase is Phase.ENDED)


def test_a_run_whose_job_was_deleted_is_cancelled(ended: dict[str, Ended]) -> None:
    run = ended["deleted"]
    assert (run.state.name, run.attempts) == ("Cancelled", 1)
    assert "qdel" in (run.state.message or "")


def test_a_run_that_the_walltime_cut_is_continued_by_the_next_job(ended: dict[str, Ended]) -> None:
    run = ended["cut"]
    names = [state.name for state in run.states]
    assert run.state.name == "Completed", run.state.message
    assert names.count("AwaitingRetry") == 1 and not {"Crashed", "Failed", "Cancelled"} & set(names)
    assert run.attempts == 2 and len(list(run.folder.glob("*.pbs.log"))) == 2


def test_a_run_that_is_handed_back_is_continued(
    elsewhere: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What happens inside a job whose walltime nears, once the flow has begun; then the next job."""
    monkeypatch.setenv("PREFECT_API_URL", elsewhere["PREFECT_API_URL"])
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", elsewhere["PREFECT_API_AUTH_STRING"])
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    note = tmp_path / "note"
    names, codes = asyncio.run(_hand_back(note))
    assert names.count("AwaitingRetry") == 1 and names[-1] == "Completed"
    assert not {"Crashed", "Failed"} & set(names)
    assert codes == [0, 0] and _attempts(note) == 2


async def _hand_back(note: Path) -> tuple[list[str], list[int]]:
    end = End(time.time() + SECONDS, time.time() + SECONDS)
    async with get_client() as client:
        deployment = await (await _deployment("hand-back")).aapply()
        run = await client.create_flow_run_from_deployment(
            deployment, parameters={"note": str(note), "waits": 1}
        )
        codes = []
        stops: dict[str, Callable[[], bool]] = {"1.pbs": lambda: _attempts(note) == 1, "2.pbs": lambda: False}
        for job, stop in stops.items():
            await client.set_flow_run_state(run.id, Pending(), force=True)
            codes.append(await execute(run.id, job, end, 5, stop, served=True))
        states = await client.read_flow_run_states(run.id)
        return [s.name or "" for s in sorted(states, key=lambda s: s.timestamp)], codes


def test_a_job_serves_runs_until_it_is_told_to_end(
    elsewhere: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", elsewhere["PREFECT_API_URL"])
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", elsewhere["PREFECT_API_AUTH_STRING"])
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("PBS_JOBID", "1.elsewhere")
    monkeypatch.setattr(worker, "POLL_SECONDS", 0.5)
    first, late = asyncio.run(_serve(tmp_path / "note"))
    assert (first.state_name, first.infrastructure_pid) == ("Completed", "serve:1.elsewhere")
    assert late.state_name == "Scheduled" and _attempts(tmp_path / "note") == 1


async def _serve(note: Path) -> tuple[FlowRun, FlowRun]:
    """A run that is served, and one that comes too late."""
    async with get_client() as client:
        deployment = await (await _deployment("served")).aapply()
        parameters = {"note": str(note)}
        run = await client.create_flow_run_from_deployment(deployment, parameters=parameters)
        end = End(time.time() + SECONDS, time.time() + SECONDS)
        over = False

        async def watch() -> FlowRun:
            nonlocal over
            while (state := (await client.read_flow_run(run.id)).state) is None or not state.is_final():
                await asyncio.sleep(LOOK)
            over = True
            return await client.create_flow_run_from_deployment(deployment, parameters=parameters)

        _, late = await asyncio.gather(serve("pbs-test", end, lambda: over), watch())
        return await client.read_flow_run(run.id), await client.read_flow_run(late.id)


def test_a_job_that_does_not_start_says_why(ended: dict[str, Ended]) -> None:
    run = ended["no cluster"]
    assert (run.state.name, run.attempts) == ("Crashed", 0)
    assert "exit status 1" in (run.state.message or "")
    assert "no driver for the GPUs" in (run.state.message or "")


def test_a_job_that_qsub_refuses_says_why(ended: dict[str, Ended]) -> None:
    run = ended["refused"]
    assert (run.state.name, run.attempts) == ("Crashed", 0)
    assert "Unknown queue" in (run.state.message or "")


def test_serve_needs_no_worker_before_it(servers: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """`made pbs serve` creates the pool and the deployments whose runs it takes."""
    served: list[str] = []

    async def run(pool: str, *_: object) -> None:
        served.append(pool)

    monkeypatch.setattr("flows.pbs.serve.serve", run)
    monkeypatch.setattr("signal.signal", lambda *_: None)
    pbs_worker.serve("pbs-served", until=time.time() + 600)
    assert served == ["pbs-served"]
    with get_client(sync_client=True) as client:
        assert client.read_work_pool("pbs-served").type == PbsWorker.type
        for name in ("made/curate-pbs", "made/retry-pbs"):
            assert client.read_deployment_by_name(name).work_pool_name == "pbs-served"
