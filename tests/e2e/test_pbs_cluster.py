"""The launcher in jobs of the PBS stand-ins: a curation on two hosts, which it brings up and ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from flows.pbs.script import Wish, job_script
from tests.support import checks
from tests.support.pbs.desk import Desk, samples_by_host, until
from tests.support.pbs.hosts import NET, machines, trouble
from tests.support.pbs.site import Host, Site
from tests.support.proxy import Proxy

# Given a folder and the URL of Prefect's API: hosts, and that URL as they reach it.
Hosts = Callable[[Path, str], AbstractContextManager[tuple[tuple[Host, ...], str]]]


@contextmanager
def raylets(folder: Path, prefect: str) -> Iterator[tuple[tuple[Host, ...], str]]:
    """Two addresses of this machine."""
    yield tuple(Host(ip, 1) for ip in ("127.0.0.1", "127.0.0.2")), prefect


@contextmanager
def namespaces(folder: Path, prefect: str) -> Iterator[tuple[tuple[Host, ...], str]]:
    """Two hosts, each with its own network, hostname and shared memory. Needs root."""
    if (why := trouble()) is not None:
        pytest.skip(why)
    with machines(("made-t1", "made-t2"), folder) as found:
        port = urlsplit(prefect).port
        assert port is not None
        proxy = Proxy(port, f"{NET}.1")
        yield (
            tuple(Host(name, 1, enter=machine.enter) for name, machine in found.items()),
            f"http://{NET}.1:{proxy.port}/api",
        )
        proxy.cut()


@pytest.mark.parametrize("hosts", [raylets, namespaces])
def test_a_curation_in_a_job_on_two_hosts(
    hosts: Hosts, elsewhere: dict[str, str], sample: Path, tmp_path: Path
) -> None:
    """The script of `made pbs script`; the ledger has a socket that both hosts see."""
    database, output = elsewhere["MADE_DATABASE_URL"], tmp_path / "out"
    with hosts(tmp_path, elsewhere["PREFECT_API_URL"]) as (two, prefect):
        # Of every task, as a hook of PBS may set them.
        given = {"MADE_DATABASE_URL": database, "PREFECT_API_URL": prefect, "MADE_RAY_DASHBOARD": "0"}
        desk = Desk(Site(tmp_path / "pbs", two, variables=given), tmp_path / "user", {})
        arguments = ["--source", f"{sample}/shards", "--output", str(output)]
        for setting in ("work.shards_per_task=1", "audit.queries=0"):
            arguments += ["--set", setting]
        job = desk.submit(script=job_script(Wish("2:ncpus=1", "1:00:00"), arguments, desk.work))
        assert desk.wait(job) == 0, desk.printed(job).read_text()
        until(lambda: not desk.left(job), seconds=60)
    assert "plan: 2 embed workers of 1 CPU on 2 nodes" in desk.printed(job).read_text()
    images = samples_by_host(database, checks.summary(output)["run"], "embed")
    assert set(images) == {host.name for host in two} and sum(images.values()) == 400, images
