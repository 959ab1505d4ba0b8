"""The private PostgreSQL on TCP: who gets in, and that URLs over the socket stay valid."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import psycopg
import pytest

from made_core.errors import DatabaseError
from made_core.ledger import postgres, postgres_tcp
from made_core.ledger.ledger import Ledger
from made_core.ledger.postgres_tcp import Listen

HOLD = """
import sys, time
from pathlib import Path
from made_core.ledger.postgres import embedded
with embedded(Path(sys.argv[1])):
    print("in", flush=True)
    time.sleep(600)
"""


def free_port() -> int:
    with socket.socket() as probing:
        probing.bind(("127.0.0.1", 0))
        return int(probing.getsockname()[1])


def begin(url: str, run: str) -> None:
    with closing(Ledger.open(url, patience=60)) as ledger:
        ledger.runs.begin(run, "one", {}, f"/{run}", "/store", "host:1", 60, False)


def tcp(listen: Listen, password: str, database: str = "postgres") -> str:
    return f"postgresql://postgres:{password}@{listen.address}:{listen.port}/{database}"


def test_tcp_needs_the_password(tmp_path: Path) -> None:
    listen = Listen("127.0.0.1", free_port())
    with postgres.embedded(tmp_path, listen) as url:
        postgres_tcp.set_password(url, "right-one")
        postgres_tcp.create_database(url, "prefect")
        postgres_tcp.create_database(url, "prefect")
        for password in ("", "wrong"):
            with pytest.raises(psycopg.OperationalError, match="password"):
                psycopg.connect(tcp(listen, password)).close()
        psycopg.connect(tcp(listen, "right-one", "prefect")).close()
        with psycopg.connect(tcp(listen, "right-one")) as connection:
            stored = connection.execute("SELECT rolpassword FROM pg_authid").fetchall()
        assert any((row[0] or "").startswith("SCRAM-SHA-256$") for row in stored)
    log = (tmp_path / "postgres" / "server.log").read_text()
    assert "right-one" not in log


def test_a_socket_url_stays_valid_when_tcp_is_added(tmp_path: Path) -> None:
    """A run of `made curate` is at work when the service starts, and goes on."""
    listen = Listen("127.0.0.1", free_port())
    with postgres.embedded(tmp_path) as first:
        begin(first, "r1")
        with postgres.embedded(tmp_path, listen) as second:
            assert first == second
            begin(first, "r2")
            assert postgres_tcp.actual(tmp_path / "postgres") == listen
        begin(first, "r3")
        assert postgres.server(tmp_path) is not None
    assert postgres.server(tmp_path) is None
    with postgres.embedded(tmp_path) as url:
        assert postgres_tcp.actual(tmp_path / "postgres") is None
        with closing(Ledger.open(url)) as ledger:
            assert sorted(run.id for run in ledger.runs.all()) == ["r1", "r2", "r3"]


def test_a_restarted_server_listens_where_it_did(tmp_path: Path) -> None:
    listen = Listen("127.0.0.1", free_port())
    with postgres.embedded(tmp_path, listen) as url:
        postgres_tcp.set_password(url, "word")
        with closing(Ledger.open(tcp(listen, "word"), patience=60)) as ledger:
            pid = postgres.server(tmp_path)
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
            assert ledger.runs.all() == []
        assert postgres.server(tmp_path) not in (None, pid)


def test_an_orphan_is_ended_by_the_next_to_leave(tmp_path: Path) -> None:
    """Its users were killed: the next command joins the server, and ends it as the last user."""
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as user:
        assert user.stdout is not None and user.stdout.readline() == "in\n"
        user.kill()
    orphan = postgres.server(tmp_path)
    assert orphan is not None
    with postgres.embedded(tmp_path):
        assert postgres.server(tmp_path) == orphan
    assert postgres.server(tmp_path) is None


def test_a_taken_port_is_an_error_and_is_forgotten(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        listen = Listen("127.0.0.1", int(other.getsockname()[1]))
        with pytest.raises(DatabaseError, match="TCP"), postgres.embedded(tmp_path, listen):
            pass
    with postgres.embedded(tmp_path):
        assert postgres_tcp.actual(tmp_path / "postgres") is None
