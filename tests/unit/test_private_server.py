"""A command's own Prefect server: what is said if it does not start, and the database that it copies."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import prefect
import pytest

from flows import private_server
from flows.private_server import PrivateServer
from made_core.errors import MadeError

CLOSED = "http://127.0.0.1:9/api"  # nothing listens on the port for discarded data


@pytest.mark.parametrize(
    ("log", "said"), [("imports\nno such table: flow\n\n", "no such table: flow"), ("", "it logged nothing")]
)
def test_a_server_that_ends(home: Path, log: str, said: str) -> None:
    (home / "server.log").write_text(log)
    template = home / f"prefect-{prefect.__version__}.db"
    template.write_text("not a database")
    with subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"]) as process:
        process.wait()
        with pytest.raises(MadeError, match=rf"^Prefect's server ended with code 3: {said}$"):
            PrivateServer(process, CLOSED, "made:x", home).wait()
    assert not template.exists()


def test_a_home_that_cannot_be_written(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The copy of the database is for the next start: this one goes on without."""
    (home / "file").write_text("")
    monkeypatch.setattr(private_server, "_template", lambda: home / "file" / "prefect.db")
    monkeypatch.setattr(private_server, "_answers", lambda url: True)
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        PrivateServer(process, CLOSED, "made:x", home).wait()


def test_a_server_that_does_not_answer(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "server.log").write_text("")
    monkeypatch.setattr(private_server, "START_SECONDS", 0)
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        with pytest.raises(MadeError, match=r"^Prefect's server does not answer after 0 s: it logged"):
            PrivateServer(process, CLOSED, "made:x", home).wait()
        process.kill()


@pytest.mark.parametrize("kept", ["a schema", "not a database", "no schema", "nothing"])
def test_a_kept_database_is_checked_before_it_is_used(home: Path, kept: str) -> None:
    """The server does not migrate a copy, so one without a schema would fail at each request."""
    template, database = private_server._template(), home / "prefect.db"
    if kept == "not a database":
        template.write_text(kept * 100)
    elif kept != "nothing":
        with closing(sqlite3.connect(template)) as connection:
            if kept == "a schema":
                connection.execute("CREATE TABLE alembic_version (version_num)")
                connection.execute("INSERT INTO alembic_version VALUES ('1')")
                connection.commit()
    assert private_server._copy_template(database) is (kept == "a schema")
    assert database.exists() is template.exists() is (kept == "a schema")
