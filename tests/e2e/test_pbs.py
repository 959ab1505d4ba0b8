"""Jobs of the PBS stand-ins on two raylets of this machine: 127.0.0.2 and 127.0.0.3."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import checks
from tests.support.pbs.desk import SCRIPTS, Desk, samples_by_host, until
from tests.support.pbs.site import Host, Site
from tests.support.runs import Curate

ONE, TWO = "127.0.0.2", "127.0.0.3"
TYPED = f"cd $PBS_O_WORKDIR; source {SCRIPTS}/start_ray_cluster.sh && touch up\n"


@pytest.fixture
def desk(tmp_path: Path, elsewhere: dict[str, str]) -> Iterator[Desk]:
    """A site whose login shells die on SIGTERM, and batch jobs with them: the harder case."""
    before = set(Path("/tmp").glob("made-????????"))
    site = Site(tmp_path / "pbs", (Host(ONE, 3), Host(TWO, 3, 2)), login_shell_dies=True)
    given = ("MADE_DATABASE_URL", "PREFECT_API_URL", "MADE_HOME")
    user = Desk(site, tmp_path, {name: elsewhere[name] for name in given})
    try:
        yield user
    finally:
        user.clear()
    assert not set(Path("/tmp").glob("made-????????")) - before


def raylets(desk: Desk) -> list[bytes]:
    """The environments of the raylets."""
    found = [
        path.parent for path in Path("/proc").glob("[0-9]*/cmdline") if b"/raylet/raylet\0" in read(path)
    ]
    texts = [read(process / "environ") for process in found]
    return [text for text in texts if f"MADE_CLUSTER_NODE={desk.home}".encode() in text]


def read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:  # the process has ended
        return b""


def test_a_batch_job_beside_an_interactive_one(
    desk: Desk, curate: Curate, sample: Path, servers: str, tmp_path: Path
) -> None:
    """Both hosts work; the decisions are those of one host; ending the other job leaves this one whole."""
    alone = tmp_path / "alone"
    curate(sample / "shards", output=alone, clusters={"k": 4})

    screen, other = desk.interactive("-l", "select=2:ncpus=1", typed=TYPED)
    until((desk.work / "up").exists, screen)
    out = desk.work / "two hosts"
    words = ["--source", sample / "shards", "--output", out, "--set", "clusters.k=4",
             "--set", "work.shards_per_task=1"]  # fmt: skip
    job = desk.curate("-l", "select=1:ncpus=1+1:ncpus=1:ngpus=2", arguments=words, MADE_RAY_DASHBOARD=0)
    until(lambda: "nodes: 127.0.0.2, 127.0.0.3" in desk.printed(job).read_text(), desk.printed(job))
    assert [b"OMP_NUM_THREADS=" in text for text in raylets(desk)] == [False] * 4
    desk.delete(other)
    desk.wait(other)
    until(lambda: not desk.left(other), seconds=60)
    text = screen.read_text()
    assert "nodes: 127.0.0.2, 127.0.0.3" in text and "on your desktop:  ssh -N -L" in text

    assert desk.wait(job) == 0, desk.printed(job).read_text()
    printed = desk.printed(job).read_text()
    assert "plan: 2 embed workers of 1 CPU on 2 nodes (1 on 127.0.0.2, 1 on 127.0.0.3)" in printed
    assert checks.decisions(out) == checks.decisions(alone)
    shared = samples_by_host(servers, checks.summary(out)["run"], "embed")
    assert set(shared) == {ONE, TWO} and sum(shared.values()) == 400, shared
    until(lambda: not desk.left(), seconds=60)
