"""The private PostgreSQL is restarted when it is killed, and no committed data is lost."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from made_core.errors import StorageFailed
from made_core.ledger import postgres
from made_core.ledger.ledger import Ledger

PATIENCE = 120  # seconds, enough for a busy machine
USE = """
import sys
from pathlib import Path
from made_core.ledger.postgres import embedded
with embedded(Path(sys.argv[1])):
    print("in", flush=True)
    sys.stdin.read()
"""


def begin(ledger: Ledger, run: str) -> None:
    ledger.runs.begin(run, "one", {}, f"/{run}", "/store", "host:1", 60, False)


def kill(data: Path) -> int:
    """Kills the server; returns its process id."""
    pid = postgres._server(data)
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    return pid


def until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.02)


def is_other(data: Path, killed: int) -> bool:
    return postgres._server(data) not in (None, killed)


def watchers() -> int:
    return sum(thread.name == "made-postgres" for thread in threading.enumerate())


def test_a_killed_server_is_restarted(tmp_path: Path) -> None:
    data, before = tmp_path / "postgres", watchers()
    with postgres.embedded(tmp_path) as url:
        ledger = Ledger.open(url, patience=PATIENCE)
        begin(ledger, "r1")
        for _ in range(2):
            killed = kill(data)
            until(partial(is_other, data, killed))
            assert [run.id for run in ledger.runs.all()] == ["r1"]
        begin(ledger, "r2")
    assert watchers() == before and postgres._server(data) is None


def test_several_processes_restart_it_once(tmp_path: Path) -> None:
    data = tmp_path / "postgres"
    with postgres.embedded(tmp_path) as url, postgres.embedded(tmp_path):
        command = [sys.executable, "-c", USE, str(tmp_path)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
            assert other.stdout is not None and other.stdout.readline() == "in\n"
            ledger = Ledger.open(url, patience=PATIENCE)
            kill(data)
            begin(ledger, "r1")
            other.communicate()
        assert other.returncode == 0
        assert [run.id for run in ledger.runs.all()] == ["r1"]
    log = (data / "server.log").read_text()
    assert log.count("ready to accept connections") == 2, log


def test_a_server_that_does_not_start_is_retried(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres, "WARN_SECONDS", 0)
    data, conf = tmp_path / "postgres", tmp_path / "postgres" / "postgresql.conf"
    with caplog.at_level(logging.WARNING), postgres.embedded(tmp_path) as url:
        Ledger.open(url).close()
        whole = conf.read_text()
        conf.write_text(f"{whole}\nshared_buffers = much\n")
        kill(data)
        until(lambda: "retrying" in caplog.text and "shared_buffers" in caplog.text)
        with pytest.raises(StorageFailed, match=r"tried for 0.1 s"):
            Ledger(url, patience=0.1).runs.all()
        conf.write_text(whole)
        assert Ledger(url, patience=PATIENCE).runs.all() == []
    assert postgres._server(data) is None
