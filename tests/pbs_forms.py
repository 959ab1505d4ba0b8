"""Parts of `python -m tests.pbs`: jobs that share hosts, an interactive one, and jobs with own servers."""

from __future__ import annotations

import re
import shlex
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from flows.pbs import servers
from flows.pbs.claim import Owner, claimed
from made_core.ledger import postgres
from tests.support.pbs.desk import SCRIPTS, Desk, until
from tests.support.runs import MADE

if TYPE_CHECKING:
    from tests.pbs import Trial

ON_TWO = ("-l", "select=2:ncpus=1")


def at_once(trial: Trial) -> None:
    """Two jobs on the same hosts: one is deleted in mid-run, the other does not notice."""
    name, desk, started = "two jobs at once", trial.desk, time.monotonic()
    outputs = [trial.output(name), trial.output("deleted")]
    whole, deleted = (
        desk.curate(*ON_TWO, arguments=[*trial.arguments, "--output", output]) for output in outputs
    )
    until(lambda: all(trial.embedded(output) for output in outputs), desk.printed(deleted))
    asked = time.monotonic()
    desk.delete(deleted)
    desk.wait(deleted)
    until(lambda: not desk.left(deleted), seconds=60)
    print(f"{name}: {time.monotonic() - asked:.1f} s after qdel nothing was left of the job", file=sys.stderr)
    if not desk.left(whole) or desk.job(whole).state != "R":
        trial.problems.append(f"{name}: the other job has ended as well")
    trial.completes(name, desk, whole)
    trial.record(name, outputs[0], started)


def shell(trial: Trial) -> None:
    """`qsub -I`, and a person who types."""
    name, started = "interactive", time.monotonic()
    words = shlex.join(map(str, [*trial.arguments, "--output", trial.output(name)]))
    typed = (
        f"unset MADE_RAY_DASHBOARD; source {SCRIPTS}/start_ray_cluster.sh && {MADE} curate {words}\n"
        "echo code=$?; stop_ray_cluster; ls ~/.made/clusters; exit\n"
    )
    screen, job = trial.desk.interactive(*ON_TWO, typed=typed)
    trial.desk.wait(job)
    text = screen.read_text()
    if not (trial.output(name) / "summary.json").exists():
        raise RuntimeError(f"the run did not complete:\n{text[-8000:]}")
    for wanted in (
        "2 nodes",
        "code=0",
        "dashboard: http://127.0.0.1:",
        r"ssh -N -L (\d+):127.0.0.1:\1 made-n1",
    ):
        if not re.search(wanted, text):
            trial.problems.append(f"{name}: the screen does not show {wanted!r}:\n{text}")
    trial.record(name, trial.output(name), started)


def own_servers(trial: Trial) -> None:
    """Neither database nor Prefect are given; the servers of another job must not open the same data."""
    name, desk = "servers of the job", trial.bare
    data = desk.home / ".made" / "servers"

    def end(job: str) -> None:
        command = f"{sys.executable} -m flows.pbs.servers {data} --listen 127.0.0.1 --environment {data}/env"
        other = desk.submit("-l", "select=1:ncpus=1", script=f"#!/bin/bash\n{command}\n")
        status, text = desk.wait(other), desk.printed(other).read_text()
        if status != 2 or f"is in use by PBS job {job}" not in text:
            trial.problems.append(f"{name}: a second job got {status}:\n{text}")
        trial.at_the_walltime(job)

    started = trial.cut(name, desk, _ledger_of(desk), end)
    with claimed(data, Owner.command_here()), postgres.embedded(data) as url:
        trial.record(name, trial.output(name), started, url)


def local_servers(trial: Trial) -> None:
    """The data are on a node's disk, which the next job does not have."""
    name, desk = "servers with local data", trial.bare
    disk, data = Path(tempfile.mkdtemp(prefix="made-disk-", dir="/tmp")), desk.home / "dumps"
    desk.variables |= {"MADE_SERVERS": str(data), "MADE_SERVERS_LOCAL": str(disk / "made")}

    def end(job: str) -> None:
        desk.delete(job)
        desk.wait(job)
        until(lambda: not desk.left(job), seconds=60)
        shutil.rmtree(disk / "made")

    try:
        started = trial.cut(name, desk, _ledger_of(desk), end)
        with postgres.embedded(disk / "after") as url:
            servers.restore(url, data / "dumps")
            trial.record(name, trial.output(name), started, url)
    finally:
        shutil.rmtree(disk)


def moved(trial: Trial) -> None:
    """Jobs on one node each: the second gets another node than the first."""
    name, desk, other = "one node, then another", trial.bare, []

    def end(job: str) -> None:
        trial.at_the_walltime(job)
        other.append(trial.desk.submit("-l", "select=1:ncpus=2", script="#!/bin/bash\nsleep 3600\n"))
        until(lambda: trial.desk.job(other[0]).state == "R", seconds=60)

    started = trial.cut(name, desk, _ledger_of(desk), end, nodes=1)
    desk.delete(*other)
    data = desk.home / ".made" / "servers"
    with claimed(data, Owner.command_here()), postgres.embedded(data) as url:
        trial.record(name, trial.output(name), started, url)


def _ledger_of(desk: Desk) -> Callable[[], str]:
    """The URL of the ledger that the user's only job runs; empty until it does."""

    def url() -> str:
        for file in (desk.home / ".made" / "clusters").glob("*/servers.env"):
            found = re.search(r"MADE_DATABASE_URL=(\S+)", file.read_text())
            return shlex.split(found[1])[0] if found else ""
        return ""

    return url
