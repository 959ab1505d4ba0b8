"""`made pbs worker` and `made pbs serve`: runs from Prefect on a PBS cluster."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from typing import Annotated

import typer

from flows.cli.pbs import pbs
from made_core.errors import UserError

Pool = Annotated[str, typer.Option(help="Work pool, of type made-pbs; created if it does not exist.")]


@pbs.command()
def worker(pool: Pool = "made-pbs") -> None:
    """Submit a PBS job for each run of the pool, on a login node, until Ctrl-C.

    Needs the Prefect server and the ledger that the compute nodes reach: `made up --listen ADDRESS` on this
    host, or PREFECT_API_URL and MADE_DATABASE_URL. Registers the deployments made/curate-pbs and
    made/retry-pbs. Jobs go on when the worker ends; the next one finds them again.
    """
    _servers()
    from flows.pbs.worker import PbsWorker

    _register(pool)
    print(f"runs of pool {pool} become PBS jobs; start one with\n  prefect deployment run made/curate-pbs "
          "--param 'recipe={...}' --job-variable select=2:ncpus=24:ngpus=4", file=sys.stderr)  # fmt: skip
    asyncio.run(PbsWorker(pool).start())


@pbs.command()
def serve(
    pool: Pool = "made-pbs",
    until: Annotated[
        float | None, typer.Option(help="When the job's walltime ends, Unix time. Default: PBS is asked.")
    ] = None,
) -> None:
    """Execute runs of the pool inside this job, one after the other, until the walltime nears.

    Then no run is taken any more, and one that is being executed goes back to the pool, where the next job
    continues it. deployments/pbs/serve.pbs starts the cluster and this command. Registers the deployments
    made/curate-pbs and made/retry-pbs, as `made pbs worker` does.
    """
    _servers()
    from flows.pbs import batch
    from flows.pbs.execute import End
    from flows.pbs.serve import serve as run

    job = os.environ.get("PBS_JOBID")
    if until is None:
        left = None if job is None else batch.query([job])[job].left
        if left is None:
            raise UserError("this is not a PBS job with a walltime: give --until, the end in Unix time")
        until = time.time() + left
    _register(pool)
    stopped = False

    def stop(*_: object) -> None:
        nonlocal stopped
        stopped = True

    signal.signal(signal.SIGTERM, stop)
    asyncio.run(run(pool, End.of(until), lambda: stopped))


def _register(pool: str) -> None:
    """Creates the pool, unless it is there, and the deployments whose runs it takes."""
    from prefect.client.orchestration import get_client

    from flows.pbs.pool import base_job_template
    from flows.pbs.worker import PbsWorker
    from flows.service import register

    with get_client(sync_client=True) as client:
        register.ensure_pool(client, pool, PbsWorker.type, base_job_template())
        register.register_deployments(client, pool, "-pbs")


def _servers() -> None:
    """Takes the servers of the running service, where the environment names none."""
    from prefect.settings import get_current_settings

    from flows.service import state

    if (service := state.running()) is not None:
        for name, value in service.environment().items():
            os.environ.setdefault(name, value)
        if service.host in ("127.0.0.1", "::1", "localhost"):
            print("made: the service listens on this host alone: for jobs on other hosts, `made down`, then "
                  "`made up --listen ADDRESS`", file=sys.stderr)  # fmt: skip
    elif not (os.environ.get("PREFECT_API_URL") or get_current_settings().api.url):
        raise UserError("no Prefect server: run `made up --listen ADDRESS`, or set PREFECT_API_URL")
    if not os.environ.get("MADE_DATABASE_URL"):
        raise UserError("MADE_DATABASE_URL is not set: runs in other jobs must reach the same ledger")
