"""The launcher in jobs of the PBS stand-ins: a run on two raylets, and hosts in network namespaces."""

from __future__ import annotations

from pathlib import Path

import pytest

from flows.pbs.script import Wish, job_script
from made_core.sample.write import write_sample
from tests.support import checks
from tests.support.pbs.desk import SCRIPTS, Desk, samples_by_host, until
from tests.support.pbs.hosts import machines, trouble
from tests.support.pbs.site import Host, Site

HOSTS = ("127.0.0.2", "127.0.0.3")
NODES = """#!/bin/bash
source $MADE_SCRIPTS/start_ray_cluster.sh || exit 1
made_python -c '
import os, socket, ray
ray.init(os.environ["MADE_RAY_ADDRESS"], log_to_driver=False)
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy as On
@ray.remote
def name(): return socket.gethostname()
tasks = [name.options(scheduling_strategy=On(n["NodeID"], soft=False)).remote() for n in ray.nodes()]
print("on", *sorted(ray.get(tasks)))'
exit 3
"""


def test_a_run_in_a_job_on_two_nodes(elsewhere: dict[str, str], tmp_path: Path) -> None:
    """The script of `made pbs script`, on two raylets of this machine; no root is needed."""
    write_sample(tmp_path / "sample", samples=48, shards=6, seed=3)
    names = ("MADE_DATABASE_URL", "PREFECT_API_URL")
    variables = {name: elsewhere[name] for name in names} | {"MADE_RAY_DASHBOARD": "0"}
    site = Site(tmp_path / "pbs", tuple(Host(ip, 1) for ip in HOSTS), variables=variables)
    desk, output = Desk(site, tmp_path / "user", {}), tmp_path / "out"
    arguments = ["--source", f"{tmp_path}/sample/shards", "--output", str(output)]
    for setting in ("clusters.k=2", "work.shards_per_task=1", "audit.queries=0"):
        arguments += ["--set", setting]
    job = desk.submit(script=job_script(Wish("2:ncpus=1", "1:00:00"), arguments, desk.work))
    assert desk.wait(job) == 0, desk.printed(job).read_text()
    summary = checks.summary(output)
    assert summary["samples"]["in"] == 48
    images = samples_by_host(elsewhere["MADE_DATABASE_URL"], summary["run"], "embed")
    assert set(images) <= set(HOSTS) and sum(images.values()) == 48, images
    assert "plan: 2 embed workers of 1 CPU on 2 nodes" in desk.printed(job).read_text()
    until(lambda: not desk.left(job), seconds=60)


def test_two_hosts(tmp_path: Path) -> None:
    """Each with its own network, hostname and shared memory."""
    if (why := trouble()) is not None:
        pytest.skip(why)
    with machines(("made-t1", "made-t2"), tmp_path) as hosts:
        site = Site(tmp_path / "pbs", tuple(Host(n, 1, enter=m.enter) for n, m in hosts.items()))
        desk = Desk(site, tmp_path / "user-of-pbs", {"MADE_SCRIPTS": str(SCRIPTS), "MADE_RAY_DASHBOARD": "0"})
        job = desk.submit("-l", "select=2:ncpus=1", script=NODES)
        assert desk.wait(job) == 3, desk.printed(job).read_text()
        assert "on made-t1 made-t2" in desk.printed(job).read_text()
        until(lambda: not desk.left(job), seconds=60)
