"""The service's Prefect server forgets what ended long ago, and nothing that has not ended."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from sqlalchemy import create_engine, make_url, text

from flows.service.prefect_server import RETENTION_DAYS
from tests.support.deployed import wait
from tests.support.ledgers import sql


@pytest.fixture
def server(tmp_path: Path, empty_url: str) -> Iterator[httpx.Client]:
    """A client of the server, which looks for old runs every second instead of every hour."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    url = make_url(empty_url).set(drivername="postgresql+asyncpg")
    environ = {
        **os.environ,
        "MADE_HOME": str(tmp_path),
        "PREFECT_HOME": str(tmp_path / "prefect"),
        "PREFECT_API_DATABASE_CONNECTION_URL": url.render_as_string(hide_password=False),
        "PREFECT_SERVER_SERVICES_DB_VACUUM_LOOP_SECONDS": "1",
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "flows.service.prefect_server", "127.0.0.1", str(port)],
        env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip

    def answers() -> bool | None:
        assert process.poll() is None
        try:
            return client.get("/health").is_success or None
        except httpx.TransportError:
            return None

    with httpx.Client(base_url=f"http://127.0.0.1:{port}/api", timeout=30) as client:
        try:
            wait(answers, "Prefect's server")
            yield client
        finally:
            process.terminate()
            process.wait()


def test_only_runs_that_ended_long_ago_are_forgotten(server: httpx.Client, empty_url: str) -> None:
    flow = server.post("/flows/", json={"name": "made"}).raise_for_status().json()["id"]

    def run(name: str, state: str) -> None:
        """A flow run in this state, with a log line and an artifact."""
        asked: dict[str, object] = {"flow_id": flow, "name": name}
        found = server.post("/flow_runs/", json=asked).raise_for_status().json()["id"]
        for kind in ("RUNNING", state):
            asked = {"state": {"type": kind}, "force": True}
            server.post(f"/flow_runs/{found}/set_state", json=asked).raise_for_status()
        line = {"name": "made", "level": 20, "message": name, "timestamp": "2026-01-01T00:00:00Z"}
        server.post("/logs/", json=[{**line, "flow_run_id": found}]).raise_for_status()
        report = {"key": f"made-report-{name}", "type": "markdown", "data": name, "flow_run_id": found}
        server.post("/artifacts/", json=report).raise_for_status()

    ended, unended = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED"), ("RUNNING", "PAUSED", "CANCELLING")
    for state in (*ended, *unended):
        run(f"old-{state.lower()}", state)
    run("young", "COMPLETED")

    for pattern, days in (("old-%", RETENTION_DAYS + 1), ("young", RETENTION_DAYS - 1)):
        ago = f"interval '{days} days'"
        sql(
            empty_url,
            f"UPDATE flow_run SET created = created - {ago}, start_time = start_time - {ago}, "
            f"end_time = end_time - {ago} WHERE name LIKE '{pattern}'",
        )
    engine = create_engine(empty_url)

    def names(column: str) -> set[str]:
        with engine.connect() as connection:
            return set(connection.execute(text(f"SELECT {column}")).scalars())

    left = {"young", *(f"old-{state.lower()}" for state in unended)}
    wait(lambda: names("data FROM artifact") == left or None, "the old runs' end")
    assert names("name FROM flow_run") == names("message FROM log") == left
    engine.dispose()
