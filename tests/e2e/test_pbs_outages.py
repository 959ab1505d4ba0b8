"""Runs of the work pool `made-pbs` while PBS or Prefect's server does not answer."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest
from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.objects import FlowRun
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Cancelling, Crashed, Pending
from prefect.types.entrypoint import EntrypointType
from yarl import URL

from flows.pbs import batch, submit, worker
from flows.pbs.batch import Phase
from flows.pbs.execute import End, execute
from flows.pbs.worker import PbsWorker
from made_core.settings import settings
from tests.support.checks import ROOT
from tests.support.pbs import jobs
from tests.support.pbs.site import Host, Site
from tests.support.pbs_flow import work
from tests.support.proxy import Proxy

SECONDS = 300
POOL = "pbs-outages"
CLUSTER = """
made_python() { ${made_exec:-} "$MADE_PYTHON" "$@"; }
stop_ray_cluster() { :; }
"""
# PBS's server answers too late. In the queue gpu it has taken the job; in the other one it does not at first.
QSUB = """#!/bin/bash
if grep -q "^#PBS -q gpu" "$1"; then "$0.real" "$@" >/dev/null; exec sleep 600; fi
if [ ! -e "$0.lost" ]; then touch "$0.lost"; exec sleep 600; fi
exec "$0.real" "$@"
"""


async def create(client: PrefectClient, note: Path, waits: int, pool: str | None, queue: str = "") -> UUID:
    """A new flow run of the pool, or of none."""
    made = await work.to_deployment(  # type: ignore[misc]
        f"outages-{pool}", work_pool_name=pool, entrypoint_type=EntrypointType.MODULE_PATH
    )
    run = await client.create_flow_run_from_deployment(
        await made.aapply(), parameters={"note": str(note), "waits": waits},
        job_variables={"queue": queue} if pool else {},
    )  # fmt: skip
    return run.id


def attempts(note: Path) -> int:
    """How often the flow began."""
    return len(note.read_text().splitlines()) if note.exists() else 0


async def names(client: PrefectClient, run: UUID) -> list[str]:
    """The names of the states that a run had."""
    states = await client.read_flow_run_states(run)
    return [state.name or "" for state in sorted(states, key=lambda s: s.timestamp)]


@pytest.fixture
def site(servers: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """A site with a qsub that hangs."""
    made = Site(tmp_path / "site", (Host("127.0.0.1", 64),), variables={"PYTHONPATH": str(ROOT)})
    folder = made.install()
    (folder / "qsub").rename(folder / "qsub.real")
    (folder / "qsub").write_text(QSUB)
    (folder / "qsub").chmod(0o755)
    (tmp_path / "start_ray_cluster.sh").write_text(CLUSTER)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setenv("MADE_PBS_FOLDER", str(tmp_path / "jobs"))
    settings.cache_clear()
    monkeypatch.setattr(submit, "SCRIPTS", tmp_path)
    monkeypatch.setattr(batch, "QSUB_SECONDS", 5.0)
    monkeypatch.setattr(worker, "POLL_SECONDS", 0.5)
    monkeypatch.setattr(worker, "GRACE_SECONDS", 1.0)
    monkeypatch.setattr(worker, "FORGOTTEN", worker.FORGOTTEN / 40)
    yield made
    settings.cache_clear()


def test_a_job_that_pbs_took_without_an_answer_is_found(site: Site, tmp_path: Path) -> None:
    """It can be cancelled; and a run whose job PBS did not take is submitted again."""
    found, lost, states = asyncio.run(_hang(tmp_path))
    assert found.state_name == "Cancelled" and attempts(tmp_path / "found") == 1
    job = str(found.infrastructure_pid)
    assert batch.query([job])[job].phase is Phase.ENDED
    assert lost.state_name == "Completed" and attempts(tmp_path / "lost") == 1
    assert states.count("AwaitingRetry") == 1 and "Crashed" not in states
    assert len(jobs.every(site)) == 2


async def _hang(folder: Path) -> tuple[FlowRun, FlowRun, list[str]]:
    async with get_client() as client, PbsWorker(POOL) as some:
        ids = [
            await create(client, folder / "found", 1, POOL, "gpu"),
            await create(client, folder / "lost", 0, POOL),
        ]
        end, asked = time.monotonic() + SECONDS, False
        while True:
            found, lost = [await client.read_flow_run(run) for run in ids]
            if all(run.state is not None and run.state.is_final() for run in (found, lost)):
                states = await names(client, lost.id)
                assert some._runs_task_group is not None
                some._runs_task_group.cancel_scope.cancel()  # it need not wait for its jobs
                break
            assert time.monotonic() < end, (found.state, lost.state)
            if found.infrastructure_pid and attempts(folder / "found") and not asked:
                asked = True
                await client.set_flow_run_state(found.id, Cancelling())
            await some.get_and_submit_flow_runs()
            await asyncio.sleep(0.5)
    return found, lost, states


def test_a_run_that_has_ended_or_that_another_job_has_is_not_executed(
    elsewhere: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """By a job that PBS started late. Prefect itself would let a crashed run go on."""
    monkeypatch.setenv("PREFECT_API_URL", elsewhere["PREFECT_API_URL"])
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", elsewhere["PREFECT_API_AUTH_STRING"])
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    end = End(time.time() + SECONDS, time.time() + SECONDS)

    async def late() -> None:
        async with get_client() as client:
            run = await create(client, tmp_path / "note", 0, None)
            await client.set_flow_run_state(run, Crashed(), force=True)
            assert await execute(run, "1.pbs", end, 5, lambda: False) == 1
            assert (await names(client, run))[-1] == "Crashed"
            await client.set_flow_run_state(run, Pending(), force=True)
            await client.update_flow_run(run, infrastructure_pid="2.pbs")
            assert await execute(run, "1.pbs", end, 5, lambda: False) == 1
            assert (await names(client, run))[-1] == "Pending"

    asyncio.run(late())
    assert attempts(tmp_path / "note") == 0
    said = capsys.readouterr().err
    assert "is not executed: it is Crashed" in said and "PBS job 2.pbs has it" in said


def test_a_run_is_handed_back_while_the_server_is_restarted(
    elsewhere: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    server = URL(elsewhere["PREFECT_API_URL"])
    assert server.port is not None
    proxy, note = Proxy(server.port), tmp_path / "note"
    through = str(server.with_host("127.0.0.1").with_port(proxy.port))
    monkeypatch.setenv("PREFECT_API_URL", through)
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", elsewhere["PREFECT_API_AUTH_STRING"])
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    cut = False

    def near() -> bool:
        """True once, when the flow has begun, as if its time were over. Then the server is away."""
        nonlocal cut
        if cut or not attempts(note):
            return False
        cut = True
        proxy.cut()
        return True

    async def mend() -> None:
        """Once it was called in vain: the flow's process may take long to end."""
        while "server does not answer" not in capsys.readouterr().out:
            await asyncio.sleep(0.2)
        await asyncio.sleep(3)
        proxy.mend()

    async def hand_back() -> tuple[int, list[str]]:
        end = End(time.time() + SECONDS, time.time() + SECONDS)
        async with get_client() as client:
            run = await create(client, note, 1, None)
            await client.set_flow_run_state(run, Pending(), force=True)
            with temporary_settings({PREFECT_API_URL: through}):
                mending = asyncio.create_task(mend())
                code = await execute(run, "1.pbs", end, 5, near)
                mending.cancel()
            return code, await names(client, run)

    code, states = asyncio.run(hand_back())
    assert (code, states[-1]) == (0, "AwaitingRetry"), states
