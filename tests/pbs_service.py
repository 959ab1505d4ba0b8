"""Runs of Prefect as PBS jobs with real clusters: `python -m tests.pbs_service`.

`made up` and `made pbs worker` on this machine, jobs of the PBS stand-ins on two raylets of it. Three runs at
once: one completes, one reaches the walltime of its first job in mid-run and completes in the next, one is
cancelled. A fourth waits until both hosts are free; then its job is deleted. The worker is killed while all
of them run, and started again. Then `serve.pbs`: one job executes two runs, and ends in the middle of the
second, which a job of its own completes. Prints a table, then one JSON line; exits 0 only if each run got its
state and nothing that was done was done again.
"""

from __future__ import annotations

import asyncio
import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from prefect.client.orchestration import PrefectClient, get_client
from prefect.client.schemas.objects import FlowRun
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings
from prefect.states import Cancelling
from rich.console import Console
from rich.table import Table

from made_core.ledger.ledger import Ledger
from made_core.sample.write import write_sample
from tests.support import checks
from tests.support.pbs import jobs
from tests.support.pbs.desk import SCRIPTS
from tests.support.pbs.site import Host, Site
from tests.support.runs import MADE, events

HOSTS = ("127.0.0.2", "127.0.0.3")
SHARDS, SECONDS = 8, 1800.0
SHARED = ("MADE_DATABASE_URL", "PREFECT_API_URL", "PREFECT_API_AUTH_STRING")
EXPECTED = {
    "completes": "Completed", "cut": "Completed", "cancelled": "Cancelled", "deleted": "Cancelled",
    "served": "Completed", "handed back": "Completed",
}  # fmt: skip
FIRST, SERVED = tuple(EXPECTED)[:4], tuple(EXPECTED)[4:]
JOBS = {"cut": 2, "served": 0}  # of a run's own; the others: 1
SELECT = {"deleted": "2:ncpus=4"}  # both hosts alone; the others: 2:ncpus=1


@contextmanager
def service(folder: Path, base: dict[str, str]) -> Iterator[dict[str, str]]:
    """`made up`; yields the environment of its clients."""
    env = {**base, "MADE_HOME": str(folder / "home"), "PREFECT_HOME": str(folder / "prefect")}
    try:
        subprocess.run([MADE, "up", "--no-worker"], env=env, check=True)
        printed = subprocess.run([MADE, "env"], env=env, check=True, capture_output=True, text=True).stdout
        yield {**env, **dict(word.split("=", 1) for word in shlex.split(printed) if "=" in word)}
    finally:
        subprocess.run([MADE, "down"], env=env, check=False)


@contextmanager
def worker(env: dict[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """`made pbs worker`."""
    with log.open("ab") as output:
        process = subprocess.Popen([MADE, "pbs", "worker"], env=env, stdout=output, stderr=output)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


async def trial(folder: Path, site: Site, env: dict[str, str]) -> list[dict[str, object]]:
    """The runs, each with its states and its jobs."""
    url, deadline = env["MADE_DATABASE_URL"], time.monotonic() + SECONDS
    async with get_client() as client:
        with worker(env, folder / "worker.log"):
            ids = {name: (await _start(client, folder, name, deadline)) for name in FIRST}
            while not all([r.infrastructure_pid for r in await _read(client, ids)]):
                await _pause(deadline, "not all jobs were submitted", folder)
        asked = set[str]()
        with worker(env, folder / "worker.log"):
            while True:
                runs = dict(zip(ids, await _read(client, ids), strict=True))
                if all(r.state is not None and r.state.is_final() for r in runs.values()):
                    break
                for name in {"cut", "cancelled", "deleted"} - asked:
                    if _claims(url, folder / name).get("embed", 0) >= 2:  # one shard is done
                        asked.add(name)
                        job = str(runs[name].infrastructure_pid)
                        if name == "cut":
                            _reach_walltime(site, job)
                        elif name == "deleted":
                            subprocess.run(["qdel", job], env=env, check=True)
                        else:
                            await client.set_flow_run_state(runs[name].id, Cancelling())
                await _pause(
                    deadline, f"not all runs ended: {[(n, r.state) for n, r in runs.items()]}", folder
                )
        ids |= await _serve(client, folder, site, env, deadline)
        results: list[dict[str, object]] = []
        for name, run in zip(ids, await _read(client, ids), strict=True):
            states = sorted(await client.read_flow_run_states(run.id), key=lambda s: s.timestamp)
            logs = list((folder / "jobs" / "runs" / str(run.id)).glob("*.pbs.log"))
            results.append(
                {"run": name, "states": [s.name for s in states], "jobs": len(logs),
                 "message": states[-1].message, "embed_claims": _claims(url, folder / name).get("embed", 0)}
            )  # fmt: skip
        return results


async def _serve(
    client: PrefectClient, folder: Path, site: Site, env: dict[str, str], deadline: float
) -> dict[str, object]:
    """Two runs in one job, which ends while the second is executed; a worker then continues that one."""
    exports = folder / "made.env"
    exports.write_text("".join(f"export {n}={shlex.quote(v)}\n" for n, v in env.items() if n in SHARED))
    given = f"MADE_ENVIRONMENT={exports},MADE_SCRIPTS={SCRIPTS},MADE_RAY_DASHBOARD=0"
    command = ["qsub", "-l", "select=2:ncpus=1", "-l", "place=scatter", "-v", given, f"{SCRIPTS}/serve.pbs"]
    job = subprocess.run(command, env=env, cwd=folder, check=True, stdout=subprocess.PIPE, text=True).stdout
    ids = {name: (await _start(client, folder, name, deadline)) for name in SERVED}
    printed = site.folder / "jobs" / job.strip() / "OU"

    async def until(true: Callable[[FlowRun, FlowRun], object]) -> None:
        while not true(*await _read(client, ids)):
            await _pause(deadline, f"a job that serves: {printed.read_text()[-3000:]}", folder)

    def in_mid_run(first: FlowRun, second: FlowRun) -> bool:
        claims = _claims(env["MADE_DATABASE_URL"], folder / "handed back").get("embed", 0)
        return bool(first.state and first.state.is_final()) and claims >= 2

    await until(in_mid_run)
    _reach_walltime(site, job.strip())
    with worker(env, folder / "worker.log"):
        await until(lambda _, second: second.state and second.state.is_final())
    return ids


async def _start(client: PrefectClient, folder: Path, name: str, deadline: float) -> object:
    while True:
        try:
            deployment = await client.read_deployment_by_name("made/curate-pbs")
            break
        except Exception:
            await _pause(deadline, "made pbs worker registered no deployment", folder)
    recipe = {
        "sources": [str(folder / "sample" / "shards")], "output": str(folder / name),
        "work": {"shards_per_task": 1, "lease_seconds": 5}, "clusters": {"k": 4}, "audit": {"queries": 0},
    }  # fmt: skip
    run = await client.create_flow_run_from_deployment(
        deployment.id, parameters={"recipe": recipe}, job_variables={"select": SELECT.get(name, "2:ncpus=1")}
    )
    return run.id


async def _read(client: PrefectClient, ids: dict[str, object]) -> list[FlowRun]:
    return [await client.read_flow_run(i) for i in ids.values()]  # type: ignore[arg-type]


async def _pause(deadline: float, text: str, folder: Path) -> None:
    if time.monotonic() > deadline:
        raise TimeoutError(f"{text}\n{(folder / 'worker.log').read_text()[-3000:]}")
    await asyncio.sleep(0.5)


def _claims(url: str, output: Path) -> dict[str, int]:
    with closing(Ledger.open(url)) as ledger:
        run = ledger.runs.of_output(str(output))
    return {} if run is None else events(url, run.id)


def _reach_walltime(site: Site, job: str) -> None:
    with site.locked():
        known = jobs.load(site, job)
        assert known is not None
        known.walltime = 1
        jobs.save(site, known)


def judge(folder: Path, results: list[dict[str, object]]) -> list[str]:
    """What is wrong."""
    wrong = []
    for result in results:
        name, states = str(result["run"]), list(result["states"])  # type: ignore[call-overload]
        if states[-1] != EXPECTED[name] or "Crashed" in states:
            wrong.append(f"{name}: {states}: {result['message']}")
        elif EXPECTED[name] == "Completed" and checks.summary(folder / name)["samples"]["in"] != 400:
            wrong.append(f"{name}: not all samples are accounted for")
        if result["jobs"] != JOBS.get(name, 1):
            wrong.append(f"{name}: {result['jobs']} jobs")
        # Of its shards, the two that were being embedded when the job ended may have been started twice.
        if name in ("cut", "handed back") and not SHARDS <= int(str(result["embed_claims"])) <= SHARDS + len(
            HOSTS
        ):
            wrong.append(f"{name}: {result['embed_claims']} claims of {SHARDS} shards")
    return wrong


def main() -> int:
    """Returns the exit code."""
    with tempfile.TemporaryDirectory(prefix="made-pbs-") as name:
        folder = Path(name)
        write_sample(folder / "sample", samples=400, shards=SHARDS, seed=0)
        site = Site(folder / "site", tuple(Host(ip, 4) for ip in HOSTS), login_shell_dies=True)
        (folder / "user").mkdir()
        own = {n: v for n, v in os.environ.items() if not n.startswith(("MADE_", "PREFECT_"))}
        base = {
            **own, "PATH": f"{site.install()}:{os.environ['PATH']}", "HOME": str(folder / "user"),
            "MADE_PBS_FOLDER": str(folder / "jobs"), "MADE_RAY_DASHBOARD": "0",
            "PREFECT_WORKER_QUERY_SECONDS": "2",
        }  # fmt: skip
        with (
            service(folder, base) as env,
            temporary_settings(
                {
                    PREFECT_API_URL: env["PREFECT_API_URL"],
                    PREFECT_API_AUTH_STRING: env["PREFECT_API_AUTH_STRING"],
                }
            ),
        ):
            results = asyncio.run(trial(folder, site, env))
        wrong = judge(folder, results)
    table = Table("run", "states", "jobs", "claims of 8 shards")
    for result in results:
        states = " > ".join(map(str, result["states"]))  # type: ignore[call-overload]
        table.add_row(str(result["run"]), states, str(result["jobs"]), str(result["embed_claims"]))
    Console().print(table)
    for line in wrong:
        print(line, file=sys.stderr)
    print(json.dumps({"test": "pbs_service", "runs": results, "passed": not wrong}))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
