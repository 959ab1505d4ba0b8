"""The folder of a job's servers: one job at a time, and the dumps of node-local data.

A job that starts them, and the next one: test_pbs_ledger.py.
"""

from __future__ import annotations

import errno
import json
import os
import socket
import subprocess
import sys
import threading
from contextlib import closing, nullcontext
from pathlib import Path

import psycopg
import pytest

from flows.pbs import claim, servers
from flows.pbs.claim import Owner, claimed
from flows.pbs.servers import DATABASES
from made_core.errors import UserError
from made_core.ledger import postgres, postgres_tcp
from made_core.ledger.ledger import Ledger
from tests.support.checks import ROOT
from tests.support.pbs.site import Host, Site

pytestmark = pytest.mark.integration


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    """A site of one host; its commands are on the PATH."""
    made = Site(tmp_path / "site", (Host("127.0.0.1", 4),))
    monkeypatch.setenv("PATH", f"{made.install()}:{os.environ['PATH']}")
    monkeypatch.setenv("PBS_JOBID", "7.pbs")
    return made


def here() -> Owner:
    """The servers of the job that this process is in."""
    return Owner.job_here(Path("servers.env"))


def leave(folder: Path, owner: Owner) -> None:
    """A record of a job that did not end in order."""
    folder.mkdir()
    (folder / "owner.json").write_text(json.dumps(owner.__dict__))


def test_a_second_job_is_refused(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claim, "LEAVING_SECONDS", 1.0)
    folder = tmp_path / "servers"
    code = (
        "import sys; from pathlib import Path; from flows.pbs.claim import Owner, claimed\n"
        "with claimed(Path(sys.argv[1]), Owner.job_here(Path())):\n"
        "    print('has it', flush=True); sys.stdin.readline()"
    )
    first = subprocess.Popen(
        [sys.executable, "-c", code, str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=ROOT,
        text=True,
    )
    assert first.stdout is not None and first.stdout.readline() == "has it\n"
    with pytest.raises(UserError, match=r"in use by PBS job 7\.pbs"), claimed(folder, here()):
        pass
    first.communicate("\n")
    with claimed(folder, here()):
        assert (folder / "owner.json").exists()
    assert not (folder / "owner.json").exists()


@pytest.mark.parametrize("job", ["5.pbs", "7.pbs"])
def test_the_servers_of_a_job_that_has_ended_are_waited_for(site: Site, tmp_path: Path, job: str) -> None:
    """Of a job that PBS no longer knows, or of this job's earlier run (`qsub -r y`)."""
    folder = tmp_path / "servers"
    code = (
        "import sys, time; from pathlib import Path; from flows.pbs.claim import Owner, claimed\n"
        "with claimed(Path(sys.argv[1]), Owner.job_here(Path())):\n"
        "    print('has it', flush=True); time.sleep(2)"
    )
    environment = {**os.environ, "PBS_JOBID": job}
    with subprocess.Popen(
        [sys.executable, "-c", code, str(folder)], stdout=subprocess.PIPE, cwd=ROOT, env=environment
    ) as first:
        assert first.stdout is not None and first.stdout.readline() == b"has it\n"
        with claimed(folder, here()):
            assert first.wait(60) == 0


def test_a_killed_job_is_succeeded_once_it_has_ended(site: Site, tmp_path: Path) -> None:
    """The lock of a killed job is free at once, but it may live on where locks do not work: PBS is asked."""
    folder, script = tmp_path / "servers", tmp_path / "job.sh"
    script.write_text("#!/bin/sh\nsleep 600\n")
    done = subprocess.run(["qsub", str(script)], cwd=tmp_path, capture_output=True, text=True, check=True)
    job = done.stdout.strip()
    leave(folder, Owner("elsewhere", job, 1))
    with pytest.raises(UserError, match="wait until it ends"), claimed(folder, here()):
        pass
    subprocess.run(["qdel", "-W", "force", job], check=True)
    ended = threading.Event()
    while not ended.wait(0.1):
        shown = subprocess.run(["qstat", "-x", "-f", job], capture_output=True, text=True).stdout
        if "job_state = F" in shown:
            ended.set()
    (folder / "postgres.host").write_text("elsewhere\n")
    (folder / "postgres").mkdir()
    (folder / "postgres" / "postmaster.pid").write_text(f"{os.getpid()}\n")  # here: another process
    with claimed(folder, here()):
        assert not (folder / "postgres.host").exists()  # PostgreSQL may start on this host
        assert not (folder / "postgres" / "postmaster.pid").exists()


def test_a_process_on_another_host_is_not_taken_for_this_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Outside of PBS, where neither has a job."""
    monkeypatch.delenv("PBS_JOBID", raising=False)
    folder = tmp_path / "servers"
    leave(folder, Owner("elsewhere", "", 1))
    (folder / "postgres.host").write_text("elsewhere\n")
    (folder / "postgres").mkdir()
    (folder / "postgres" / "postmaster.pid").write_text("4242\n")
    with pytest.raises(UserError, match=r"process 1 on elsewhere.*owner\.json"), claimed(folder, here()):
        pass
    assert (folder / "postgres" / "postmaster.pid").exists()
    (folder / "owner.json").write_text(json.dumps(Owner(socket.gethostname(), "", 1).__dict__))
    with claimed(folder, here()):  # this host's own, whose lock is free
        pass


@pytest.mark.parametrize(
    ("shown", "refused"),
    [
        ("job_state = R\n    exec_vnode = (n2:ncpus=1)", False),  # this host's name for PBS
        ("job_state = R\n    exec_vnode = (n1:ncpus=1)+(n2:ncpus=1)", False),  # both, in another order
        ("job_state = R\n    exec_vnode = (vnode-7:ncpus=1)", False),  # PBS has names of its own
        ("job_state = R\n    exec_vnode = (n1:ncpus=1)", True),  # there and not here: this one is left over
        ("job_state = Q", True),
    ],
)
def test_a_job_that_pbs_runs_again_on_another_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shown: str, refused: bool
) -> None:
    (tmp_path / "qstat").write_text(f"#!/bin/sh\necho 'Job Id: 7.pbs\n    {shown}'\n")
    (tmp_path / "qstat").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("PBS_JOBID", "7.pbs")
    monkeypatch.setattr(socket, "gethostname", lambda: "n2.cluster")
    leave(tmp_path / "servers", Owner("n1.cluster", "7.pbs", 1))
    expected = pytest.raises(UserError, match="in use by") if refused else nullcontext()
    with expected, claimed(tmp_path / "servers", here()):
        pass


def test_a_file_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def lockf(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.lockf", lockf)
    wanted = r"without file locks \(No locks available\).*MADE_SERVERS"
    with pytest.raises(UserError, match=wanted), claimed(tmp_path / "servers", here()):
        pass


def test_what_pbs_cannot_say_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    folder = tmp_path / "servers"
    leave(folder, Owner("elsewhere", "3.pbs", 1))
    with pytest.raises(UserError, match=r"PBS does not say.*owner\.json"), claimed(folder, here()):
        pass


def test_dumps_are_restored_on_another_disk(tmp_path: Path) -> None:
    with postgres.embedded(tmp_path / "one") as url:
        with closing(Ledger.open(url)) as ledger:
            run = ledger.runs.begin("r1", "digest", {}, "/out", "/store", "host:1", 60, False)
        postgres_tcp.create_database(url, DATABASES[1])
        servers.dump(url, tmp_path / "dumps")
        servers.dump(url, tmp_path / "dumps")  # replaces the first
    with postgres.embedded(tmp_path / "two") as url:
        servers.restore(url, tmp_path / "dumps")
        with closing(Ledger.open(url)) as ledger:
            assert [r.id for r in ledger.runs.all()] == [run]
        with psycopg.connect(url.replace("+psycopg", "")) as connection:
            names = {row[0] for row in connection.execute("SELECT datname FROM pg_database")}
    assert set(DATABASES) <= names
