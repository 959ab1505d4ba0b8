"""Jobs of the PBS stand-ins on two raylets of this machine: 127.0.0.2 and 127.0.0.3."""

from __future__ import annotations

import os
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from made_core.ledger.ledger import Ledger
from made_core.stages import BY_NAME
from tests.support import checks
from tests.support.pbs.jobs import FINISHED, Job, load, save
from tests.support.pbs.site import Host, Site
from tests.support.runs import Curate, events

ONE, TWO = "127.0.0.2", "127.0.0.3"
SCRIPTS = checks.ROOT / "deployments" / "pbs"
SECONDS = 400  # for a job on a busy machine; 40 on a quiet one
IDLE = f"""#!/bin/bash
source {SCRIPTS}/start_ray_cluster.sh || exit
touch up
while :; do sleep 0.2; done
"""


class Desk:
    """A user of the site, with the servers of the test session."""

    def __init__(self, folder: Path, environment: dict[str, str], login_shell_dies: bool) -> None:
        self.home, self.work = folder / "home", folder / "work"
        self.home.mkdir()
        self.work.mkdir()
        self.site = Site(folder / "pbs", (Host(ONE, 3), Host(TWO, 3, 2)), login_shell_dies=login_shell_dies)
        self.bin = self.site.install()
        self.env = {**environment, "HOME": str(self.home), "PATH": f"{self.bin}:{os.environ['PATH']}"}

    def submit(self, *options: str, script: str, **variables: object) -> str:
        """Returns the job's id."""
        given = ("MADE_DATABASE_URL", "PREFECT_API_URL", "MADE_HOME")
        values = [f"{name}={self.env[name]}" for name in given] + ["MADE_RAY_DASHBOARD=0"]
        values += [f"{name}={value}" for name, value in variables.items()]
        done = subprocess.run(
            ["qsub", "-j", "oe", "-l", "place=scatter", "-v", ",".join(values), *options], input=script,
            cwd=self.work, env=self.env, capture_output=True, text=True, check=True,
        )  # fmt: skip
        return done.stdout.strip()

    def job(self, job: str) -> Job:
        found = load(self.site, job)
        assert found is not None
        return found

    def wait(self, job: str) -> int:
        """Waits for the end; returns Exit_status."""
        until(lambda: self.job(job).state == FINISHED, self.printed(job))
        status = self.job(job).exit_status
        assert status is not None
        return status

    def printed(self, job: str) -> Path:
        return self.site.folder / "jobs" / job / "OU"

    def left(self) -> list[str]:
        """Processes of clusters, and their folders: of nodes and on the shared file system."""
        found = [
            f"process {path.parent.name}" for path in Path("/proc").glob("[0-9]*/environ") if self._ours(path)
        ]
        clusters = self.home / ".made" / "clusters"
        return found + [str(p) for p in (clusters.iterdir() if clusters.exists() else ())]

    def _ours(self, environ: Path) -> bool:
        try:
            return f"MADE_CLUSTER_NODE={self.home}".encode() in environ.read_bytes()
        except OSError:
            return False


def until(true: Callable[[], object], printed: Path | None = None, seconds: float = SECONDS) -> None:
    end = time.monotonic() + seconds
    while not true():
        if time.monotonic() > end:
            pytest.fail(printed.read_text() if printed is not None and printed.exists() else "too late")
        time.sleep(0.1)


@pytest.fixture
def desk(tmp_path: Path, elsewhere: dict[str, str]) -> Iterator[Desk]:
    """A site whose login shells die on SIGTERM, and the job's processes with them: the harder case."""
    before = set(Path("/tmp").glob("made-*"))
    yield Desk(tmp_path, elsewhere, login_shell_dies=True)
    assert not set(Path("/tmp").glob("made-????????")) - before


def hosts(url: str, run: str, stage: str) -> Counter[str]:
    """Samples of a stage by the host that did them."""
    ledger, found = Ledger.open(url), Counter[str]()
    try:
        for status in ledger.progress.of(run):
            if status.stage == stage:
                for key, result in ledger.units.results(BY_NAME[stage], status.scope, None).items():
                    done = [
                        e for e in ledger.units.events(BY_NAME[stage], status.scope, key) if e.kind == "done"
                    ]
                    assert result.output is not None
                    found[str(done[-1].host).partition(":")[0]] += result.output.samples
    finally:
        ledger.close()
    return found


def test_a_batch_job_beside_another_one(desk: Desk, curate: Curate, sample: Path, tmp_path: Path) -> None:
    """Both hosts work; the decisions are those of one host; ending the other job leaves this one whole."""
    alone = tmp_path / "alone"
    curate(sample / "shards", output=alone, clusters={"k": 4})

    other = desk.submit("-l", "select=2:ncpus=1", "-N", "other", script=IDLE)
    until((desk.work / "up").exists, desk.printed(other))
    arguments = desk.work / "arguments.txt"
    out = desk.work / "two hosts"
    words = ["--source", sample / "shards", "--output", out, "--set", "clusters.k=4",
             "--set", "work.shards_per_task=1"]  # fmt: skip
    arguments.write_text("".join(f"{word}\n" for word in words))
    script = (SCRIPTS / "curate.pbs").read_text()
    chunks = "select=1:ncpus=1+1:ncpus=1:ngpus=2"
    job = desk.submit("-l", chunks, script=script, MADE_ARGUMENTS=arguments, MADE_SCRIPTS=SCRIPTS)
    until(lambda: "nodes: 127.0.0.2, 127.0.0.3" in desk.printed(job).read_text(), desk.printed(job))
    subprocess.run(["qdel", other], env=desk.env, check=True)
    desk.wait(other)
    until(lambda: not [left for left in desk.left() if f"/{other.partition('.')[0]}-" in left], seconds=60)

    assert desk.wait(job) == 0, desk.printed(job).read_text()
    printed = desk.printed(job).read_text()
    assert "plan: 2 embed workers of 1 CPU on 2 nodes (1 on 127.0.0.2, 1 on 127.0.0.3)" in printed
    assert checks.decisions(out) == checks.decisions(alone)
    shared = hosts(desk.env["MADE_DATABASE_URL"], checks.summary(out)["run"], "embed")
    assert set(shared) == {ONE, TWO} and sum(shared.values()) == 400, shared
    until(lambda: not desk.left(), seconds=60)


def test_a_job_cut_by_the_walltime_is_resumed(desk: Desk, sample: Path) -> None:
    """The run ends as interrupted; the next job completes it, and what was done is not done again."""
    url, out = desk.env["MADE_DATABASE_URL"], desk.work / "out"
    arguments = desk.work / "arguments.txt"
    words = ["--source", sample / "shards", "--output", out, "--set", "clusters.k=3",
             "--set", "work.shards_per_task=1", "--set", "work.lease_seconds=5"]  # fmt: skip
    arguments.write_text("".join(f"{word}\n" for word in words))
    script = (SCRIPTS / "curate.pbs").read_text()

    def submit(*options: str) -> str:
        return desk.submit(*options, script=script, MADE_ARGUMENTS=arguments, MADE_SCRIPTS=SCRIPTS)

    def claims() -> dict[str, int]:
        ledger = Ledger.open(url)
        try:
            run = ledger.runs.of_output(str(out))
        finally:
            ledger.close()
        return {} if run is None else events(url, run.id)

    job = submit("-l", "walltime=1:00:00")
    until(lambda: claims().get("embed", 0) >= 2, desk.printed(job))  # one shard is done
    with desk.site.locked():
        known = desk.job(job)
        known.walltime = 1
        save(desk.site, known)
    assert desk.wait(job) == -29
    until(lambda: not desk.left(), seconds=60)
    before = claims()
    again = submit()
    assert desk.wait(again) == 0, desk.printed(again).read_text()
    assert checks.summary(out)["samples"]["in"] == 400
    assert before["embed"] < 4 and claims()["embed"] <= 5, (before, claims())  # one shard was cut
