"""Jobs of the PBS stand-ins on two raylets of this machine: 127.0.0.2 and 127.0.0.3."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from made_core.ledger.ledger import Ledger
from tests.support import checks
from tests.support.pbs.desk import SCRIPTS, Desk, samples_by_host, until
from tests.support.pbs.jobs import save
from tests.support.pbs.site import Host, Site
from tests.support.runs import Curate, events

ONE, TWO = "127.0.0.2", "127.0.0.3"
IDLE = f"""#!/bin/bash
source {SCRIPTS}/start_ray_cluster.sh || exit
touch up
while :; do sleep 0.2; done
"""


@pytest.fixture
def desk(tmp_path: Path, elsewhere: dict[str, str]) -> Iterator[Desk]:
    """A site whose login shells die on SIGTERM, and the job's processes with them: the harder case."""
    before = set(Path("/tmp").glob("made-????????"))
    site = Site(tmp_path / "pbs", (Host(ONE, 3), Host(TWO, 3, 2)), login_shell_dies=True)
    given = ("MADE_DATABASE_URL", "PREFECT_API_URL", "MADE_HOME")
    yield Desk(site, tmp_path, {"MADE_RAY_DASHBOARD": "0"} | {name: elsewhere[name] for name in given})
    assert not set(Path("/tmp").glob("made-????????")) - before


def test_a_batch_job_beside_another_one(
    desk: Desk, curate: Curate, sample: Path, servers: str, tmp_path: Path
) -> None:
    """Both hosts work; the decisions are those of one host; ending the other job leaves this one whole."""
    alone = tmp_path / "alone"
    curate(sample / "shards", output=alone, clusters={"k": 4})

    other = desk.submit("-l", "select=2:ncpus=1", "-N", "other", script=IDLE)
    until((desk.work / "up").exists, desk.printed(other))
    out = desk.work / "two hosts"
    words = ["--source", sample / "shards", "--output", out, "--set", "clusters.k=4",
             "--set", "work.shards_per_task=1"]  # fmt: skip
    job = desk.curate("-l", "select=1:ncpus=1+1:ncpus=1:ngpus=2", arguments=words)
    until(lambda: "nodes: 127.0.0.2, 127.0.0.3" in desk.printed(job).read_text(), desk.printed(job))
    desk.delete(other)
    desk.wait(other)
    until(lambda: not desk.left(other), seconds=60)

    assert desk.wait(job) == 0, desk.printed(job).read_text()
    printed = desk.printed(job).read_text()
    assert "plan: 2 embed workers of 1 CPU on 2 nodes (1 on 127.0.0.2, 1 on 127.0.0.3)" in printed
    assert checks.decisions(out) == checks.decisions(alone)
    shared = samples_by_host(servers, checks.summary(out)["run"], "embed")
    assert set(shared) == {ONE, TWO} and sum(shared.values()) == 400, shared
    until(lambda: not desk.left(), seconds=60)


def test_a_job_cut_by_the_walltime_is_resumed(desk: Desk, servers: str, sample: Path) -> None:
    """The run ends as interrupted; the next job completes it, and what was done is not done again."""
    out = desk.work / "out"
    words = ["--source", sample / "shards", "--output", out, "--set", "clusters.k=3",
             "--set", "work.shards_per_task=1", "--set", "work.lease_seconds=5"]  # fmt: skip

    def claims() -> dict[str, int]:
        ledger = Ledger.open(servers)
        try:
            run = ledger.runs.of_output(str(out))
        finally:
            ledger.close()
        return {} if run is None else events(servers, run.id)

    job = desk.curate("-l", "walltime=1:00:00", arguments=words)
    until(lambda: claims().get("embed", 0) >= 2, desk.printed(job))  # one shard is done
    with desk.site.locked():
        known = desk.job(job)
        known.walltime = 1
        save(desk.site, known)
    assert desk.wait(job) == -29
    until(lambda: not desk.left(), seconds=60)
    before = claims()
    assert not (out / "summary.json").exists()
    again = desk.curate(arguments=words)
    assert desk.wait(again) == 0, desk.printed(again).read_text()
    assert checks.summary(out)["samples"]["in"] == 400
    # Of four shards, the one that was being embedded may have been started twice.
    assert claims()["embed"] <= 5 and claims()["embed"] - before["embed"] <= 4, (before, claims())
