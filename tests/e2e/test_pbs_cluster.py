"""The launcher in a job of the PBS stand-ins: a curation on two hosts, which it brings up and ends."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from flows.pbs.script import Wish, job_script
from tests.support import checks
from tests.support.pbs.desk import Desk, samples_by_host, until
from tests.support.pbs.hosts import NET, machines, trouble
from tests.support.pbs.site import Host, Site
from tests.support.proxy import Proxy


@pytest.fixture
def site(elsewhere: dict[str, str], tmp_path: Path) -> Iterator[Site]:
    """Two hosts with a network, a hostname and shared memory each, which needs root; else two raylets here.

    Every task has the session's servers, as a hook of PBS may set them. The ledger has a socket in a folder.
    """
    names = ("MADE_DATABASE_URL", "PREFECT_API_URL", "PREFECT_API_AUTH_STRING")
    given = {name: elsewhere[name] for name in names}
    given["MADE_RAY_DASHBOARD"] = "0"
    if trouble() is not None:
        yield Site(tmp_path / "pbs", tuple(Host(ip, 1) for ip in ("127.0.0.1", "127.0.0.2")), variables=given)
        return
    with machines(("made-t1", "made-t2"), tmp_path) as found:
        port = urlsplit(given["PREFECT_API_URL"]).port
        assert port is not None
        proxy = Proxy(port, f"{NET}.1")
        given["PREFECT_API_URL"] = f"http://{NET}.1:{proxy.port}/api"
        hosts = tuple(Host(name, 1, enter=machine.enter) for name, machine in found.items())
        yield Site(tmp_path / "pbs", hosts, variables=given)
        proxy.cut()


def test_a_curation_in_a_job_on_two_hosts(
    site: Site, sample: Path, first: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    """The script of `made pbs script`: both hosts are used, and the output is that of one host."""
    desk, output = Desk(site, tmp_path / "desk", {}), tmp_path / "out"
    arguments = ["--source", f"{sample}/shards", "--output", str(output)]
    for setting in ("work.shards_per_task=1", "work.pairs_per_sample=0", "audit.queries=0"):
        arguments += ["--set", setting]
    job = desk.submit(script=job_script(Wish("2:ncpus=1", "1:00:00"), arguments, desk.work))
    assert desk.wait(job) == 0, desk.printed(job).read_text()
    assert "plan: 2 embed workers of 1 CPU on 2 nodes" in desk.printed(job).read_text()
    # In any stage: the first host can have embedded all four shards before the second has a worker.
    used = samples_by_host(site.variables["MADE_DATABASE_URL"], checks.summary(output)["run"])
    assert set(used) == {host.name for host in site.hosts}, used
    assert checks.outcome(output) == checks.outcome(first[0])
    until(lambda: not desk.left(job), seconds=60)
