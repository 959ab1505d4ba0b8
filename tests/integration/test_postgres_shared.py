"""The private PostgreSQL: shared by the processes of a host, stopped by the last one."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import make_url

from made_core.errors import (
    DatabaseError,
)
from made_core.ledger import postgres
from made_core.ledger.ledger import Ledger
from tests.support.checks import ROOT


def test_a_folder_of_another_host_is_refused(tmp_path: Path) -> None:
    (tmp_path / "postgres.host").write_text("login9\n")
    with pytest.raises(DatabaseError) as caught, postgres.embedded(tmp_path):
        pass
    for word in (str(tmp_path), "login9", socket.gethostname(), "MADE_DATABASE_URL", "MADE_HOME"):
        assert word in str(caught.value)
    assert not (tmp_path / "postgres").exists()


USE = """
import sys, time
from pathlib import Path
from made_core.ledger.ledger import Ledger
from made_core.ledger.postgres import embedded
with embedded(Path(sys.argv[1])) as url:
    Ledger.open(url)
    print("in", flush=True)
    sys.stdin.read()
"""


def use(home: Path) -> subprocess.Popen[str]:
    """Another process that uses the server until its stdin is closed."""
    process = subprocess.Popen(
        [sys.executable, "-c", USE, str(home)],
        cwd=Path(__file__).parents[2], text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None and process.stdout.readline() == "in\n"
    return process


def test_processes_share_a_server_and_the_last_one_stops_it(tmp_path: Path) -> None:
    home = tmp_path / ("a folder with spaces, too long for a socket " * 3)
    data = home / "postgres"
    with postgres.embedded(home) as url:
        sockets = Path(str(make_url(url).query["host"]))
        other, killed = use(home), use(home)
        os.kill(killed.pid, signal.SIGKILL)
        killed.communicate()
    assert postgres._server(data)
    Ledger.open(url).close()
    other.communicate()
    assert other.returncode == 0 and not postgres._server(data)
    assert not sockets.exists()
    with postgres.embedded(home) as again:
        assert again == url


def test_a_recorded_process_id_of_another_process_is_not_a_server(tmp_path: Path) -> None:
    with postgres.embedded(tmp_path):
        pass
    (tmp_path / "postgres" / "postmaster.pid").write_text(f"{os.getpid()}\n")
    with postgres.embedded(tmp_path) as url:
        assert Ledger.open(url).runs.all() == []


def test_a_failed_start_reports_the_reason(tmp_path: Path) -> None:
    with postgres.embedded(tmp_path):
        pass
    with (tmp_path / "postgres" / "postgresql.conf").open("a") as conf:
        conf.write("shared_buffers = much\n")
    with pytest.raises(DatabaseError, match="shared_buffers"), postgres.embedded(tmp_path):
        pass


SLOW_TO_EXIT = """
import os, signal, sys, time
def end(*_):
    os.unlink("postmaster.pid")
    time.sleep(0.5)
    sys.exit()
signal.signal(signal.SIGINT, end)
print("in", flush=True)
while True:
    signal.pause()
"""


def test_a_stopped_server_has_exited(tmp_path: Path) -> None:
    """PostgreSQL removes its file before it exits: until then it holds the lock, and its socket is kept."""
    server = subprocess.Popen(
        [sys.executable, "-c", SLOW_TO_EXIT], cwd=tmp_path, text=True, stdout=subprocess.PIPE
    )
    with server:
        assert server.stdout is not None and server.stdout.readline() == "in\n"
        (tmp_path / "postmaster.pid").write_text(f"{server.pid}\n")
        postgres._stop(tmp_path)
        assert not postgres._runs(server.pid, tmp_path)


READ = """
import sys
from contextlib import closing
from pathlib import Path
from made_core.ledger.ledger import Ledger
from made_core.ledger.postgres import embedded
with embedded(Path(sys.argv[1])) as url, closing(Ledger.open(url)) as ledger:
    print(*(run.id for run in ledger.runs.all()))
    ledger.runs.begin("theirs", "digest", {}, "/theirs", "/store", "host:1", 60, False)
"""


LISTEN = """
import sys
from pathlib import Path
from made_core.ledger.postgres import embedded
from made_core.ledger.postgres_tcp import Listen
with embedded(Path(sys.argv[1]), Listen("127.0.0.1", 1)):
    pass
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="a PID namespace needs root")
@pytest.mark.parametrize("length", [1, 60], ids=["socket beside the data", "socket in /tmp"])
def test_a_process_in_another_container_joins_the_server(tmp_path: Path, length: int) -> None:
    """It does not see the server's process: a second server would destroy the data."""
    home = tmp_path / ("n" * length)
    apart = ["unshare", "--pid", "--ipc", "--fork", "--mount-proc"]
    with postgres.embedded(home) as url, closing(Ledger.open(url)) as ledger:
        ledger.runs.begin("ours", "digest", {}, "/ours", "/store", "host:1", 60, False)
        done = subprocess.run(
            [*apart, sys.executable, "-c", READ, str(home)],
            cwd=ROOT, capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        assert (done.returncode, done.stdout) == (0, "ours\n"), done.stderr
        assert {run.id for run in ledger.runs.all()} == {"ours", "theirs"}
        done = subprocess.run(
            [*apart, sys.executable, "-c", LISTEN, str(home)],
            cwd=ROOT, capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        assert "runs in another container" in done.stderr.splitlines()[-1]
    with postgres.embedded(home) as url, closing(Ledger.open(url)) as ledger:
        assert {run.id for run in ledger.runs.all()} == {"ours", "theirs"}
