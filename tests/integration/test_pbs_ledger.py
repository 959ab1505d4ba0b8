"""The ledger of batch jobs: in a job, in the next one, and `made pbs status` from another host."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from flows.pbs import claim, ledger, servers
from flows.pbs.claim import Owner
from flows.servers import database
from made_core.errors import UserError
from made_core.ledger import postgres, postgres_tcp
from made_core.ledger.ledger import Ledger
from made_core.settings import settings
from tests.support.checks import ROOT
from tests.support.pbs.desk import SCRIPTS, Desk, until
from tests.support.pbs.site import Host, Site

pytestmark = pytest.mark.integration

JOB = f"""#!/bin/bash
#PBS -l select=1:ncpus=1
#PBS -j oe
export MADE_CLUSTER=$HOME/cluster MADE_RAY_ADDRESS=127.0.0.1:1 PYTHONPATH={ROOT}
mkdir -p "$MADE_CLUSTER"
made_python() {{ ${{made_exec:-}} {sys.executable} "$@"; }}
source {SCRIPTS}/start_servers.sh
start_servers || exit 1
made_python - <<'END'
from flows.servers import database
from made_core.ledger.ledger import Ledger
with database() as url:
    ledger = Ledger.open(url)
    print("runs:", len(ledger.runs.all()))
    if not ledger.runs.all():
        ledger.runs.begin("r1", "digest", {{}}, "/out", "/store", "host:1", 60, False)
    ledger.close()
END
code=$?
touch "$HOME/began"
until [ -f "$HOME/end" ]; do sleep 0.1; done
stop_servers
exit $code
"""


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    site = Site(tmp_path / "site", (Host("127.0.0.1", 4),))
    monkeypatch.setenv("PATH", f"{site.install()}:{os.environ['PATH']}")
    return Desk(site, tmp_path / "desk", {})


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of servers, in MADE_SERVERS; no other ledger is configured."""
    for name in ("MADE_DATABASE_URL", "PBS_JOBID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MADE_SERVERS", str(tmp_path / "servers"))
    settings.cache_clear()
    yield tmp_path / "servers"
    settings.cache_clear()


def made(desk: Desk, *words: str) -> subprocess.CompletedProcess[str]:
    """Runs made at the desk."""
    return subprocess.run(
        [sys.executable, "-m", "flows.cli", *words], cwd=ROOT, env=desk.env, capture_output=True, text=True
    )


def runs() -> list[str]:
    """The runs of the ledger that commands of this process have."""
    with database() as url, closing(Ledger.open(url)) as found:
        return [run.id for run in found.runs.all()]


def test_the_ledger_during_and_after_a_job_and_in_the_next_one(desk: Desk) -> None:
    """With a home that nodes share, and neither database nor Prefect given; each job has another node."""
    desk.env.pop("MADE_DATABASE_URL", None)
    nothing = made(desk, "pbs", "status")
    assert nothing.returncode == 2 and "MADE_SERVERS" in nothing.stderr
    job = desk.submit(script=JOB)
    data = desk.home / ".made" / "servers"
    until(lambda: (desk.home / "began").exists(), desk.printed(job), 300)
    server = (data / "postgres" / "postmaster.pid").read_text()
    live = made(desk, "pbs", "status", "--json")
    assert [run["output"] for run in json.loads(live.stdout)["runs"]] == ["/out"], live.stderr
    assert (data / "postgres" / "postmaster.pid").read_text() == server  # the job's server, undisturbed
    (desk.home / "end").touch()
    assert desk.wait(job) == 0, desk.printed(job).read_text()
    (data / "postgres.host").write_text("elsewhere\n")  # the job's node
    after = made(desk, "pbs", "status", "--json")
    assert [run["output"] for run in json.loads(after.stdout)["runs"]] == ["/out"], after.stderr
    assert postgres.server(data) is None and not (data / "owner.json").exists()
    (data / "postgres.host").write_text("elsewhere\n")
    second = desk.submit(script=JOB)
    assert desk.wait(second) == 0, desk.printed(second).read_text()
    assert "runs: 0" in desk.printed(job).read_text() and "runs: 1" in desk.printed(second).read_text()


def test_a_live_job_whose_servers_are_not_up_is_left_alone(folder: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from flows.pbs.claim import Owner, claimed\n"
        "with claimed(Path(sys.argv[1]), Owner.job_here(Path(sys.argv[1], 'env'))):\n"
        "    print('has it', flush=True); sys.stdin.readline()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(folder)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT, env={**os.environ, "PBS_JOBID": "7.pbs"},
    ) as job:  # fmt: skip
        assert job.stdout is not None and job.stdout.readline() == b"has it\n"
        with pytest.raises(UserError, match=r"PBS job 7\.pbs .* are not up"), ledger.opened():
            pass
        job.communicate(b"\n")
    assert not (folder / "postgres").exists()


def test_dumps_of_a_local_disk_are_read(folder: Path, tmp_path: Path) -> None:
    with postgres.embedded(tmp_path / "disk") as url:
        with closing(Ledger.open(url)) as found:
            run = found.runs.begin("r1", "digest", {}, "/out", "/store", "host:1", 60, False)
        postgres_tcp.create_database(url, servers.DATABASES[1])
        folder.mkdir()
        servers.dump(url, folder / "dumps")
    with ledger.opened():
        assert runs() == [run]
    assert not (folder / "postgres").exists()


LOOK = "from flows.pbs import ledger\nwith ledger.opened(): print('in', flush=True); input()"


def looking_at(folder: Path) -> subprocess.Popen[bytes]:
    """A process that has the ledger."""
    process = subprocess.Popen(
        [sys.executable, "-c", LOOK], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT
    )
    assert process.stdout is not None and process.stdout.readline() == b"in\n"
    assert postgres.server(folder) is not None
    return process


def test_a_command_that_is_killed_leaves_nothing(folder: Path) -> None:
    with postgres.embedded(folder):
        pass
    with looking_at(folder) as looking:
        assert (folder / "owner.json").exists()
        looking.send_signal(signal.SIGKILL)
    until(lambda: not (folder / "owner.json").exists(), seconds=30)
    assert postgres.server(folder) is None


def test_a_job_waits_for_a_command_that_looks(folder: Path) -> None:
    with postgres.embedded(folder):
        pass
    with looking_at(folder) as looking:
        job = subprocess.Popen(
            [sys.executable, "-c", "import sys; from pathlib import Path; from flows.pbs.claim import *\n"
             "with claimed(Path(sys.argv[1]), Owner.job_here(Path('env'))): pass", str(folder)],
            cwd=ROOT, env={**os.environ, "PBS_JOBID": "8.pbs"}, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert job.stderr is not None and "waiting for process" in job.stderr.readline()
        looking.communicate(b"\n")
    assert job.wait(60) == 0


def test_a_command_outside_of_a_job_does_not_count_as_the_job_itself(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Inside the job too: where locks do not work, the record alone tells that its servers are there."""
    folder.mkdir()
    monkeypatch.setenv("PBS_JOBID", "7.pbs")
    monkeypatch.setattr(claim, "_locked", lambda gate: True)
    monkeypatch.setenv("PATH", "")  # PBS does not answer
    own = Owner("elsewhere", "7.pbs", 1, str(folder / "env"))
    (folder / "owner.json").write_text(json.dumps(own.__dict__))
    with pytest.raises(UserError, match="PBS does not say"), ledger.opened():
        pass
    (folder / "owner.json").write_text(json.dumps(Owner("elsewhere", "", 1).__dict__))
    with pytest.raises(UserError, match=r"process 1 on elsewhere, which may still run"), ledger.opened():
        pass
