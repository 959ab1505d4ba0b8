"""Calls of the ledger while the database restarts, is full, or cannot be used."""

from __future__ import annotations

import logging
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

from made_core.errors import (
    DatabaseError,
    StorageFailed,
)
from made_core.ledger import postgres
from made_core.ledger.ledger import Ledger
from made_core.types import UnitState
from tests.support.ledgers import (
    SCOPE,
    STAGE,
    begin,
    claim,
    put,
    state,
)


def test_calls_survive_a_restart_of_the_database(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with postgres.embedded(tmp_path) as url:
        ledger = Ledger.open(url, patience=60)
        put(ledger, "a")
        data = tmp_path / "postgres"
        with postgres._locked(tmp_path):  # otherwise it would be restarted at once
            postgres._run(data, "pg_ctl", "stop", "-D", str(data), "-m", "immediate")
            impatient = Ledger(url, patience=0.5)
            with pytest.raises(StorageFailed, match=r"storage failed: .*tried for 0.5 s"):
                impatient.runs.all()
            with caplog.at_level(logging.WARNING), ThreadPoolExecutor(1) as pool:
                caplog.clear()
                call = pool.submit(claim, ledger, "a")
                while "does not answer" not in caplog.text:
                    assert not call.done()
                    time.sleep(0.01)
                postgres._start(data, data)
                assert [unit.key for unit in call.result(timeout=30)] == ["a"]


def test_more_workers_than_connections(ledger: Ledger, empty_url: str) -> None:
    """Calls wait for connections that others use."""
    put(ledger, "a")
    engine = create_engine(empty_url, pool_size=100, max_overflow=0)
    held = [engine.connect() for _ in range(97)]
    with ThreadPoolExecutor(8) as pool:
        calls = [pool.submit(ledger.units.tally, STAGE, SCOPE, None) for _ in range(24)]
        time.sleep(0.3)
        for connection in held:
            connection.close()
        engine.dispose()
        assert {call.result(timeout=30).total for call in calls} == {1}


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("postgresql://me:hunter2@127.0.0.1:1/made", r"made on 127.0.0.1:1 cannot be reached"),
        ("postgresql+psycopg://me:hunter2@127.0.0.1:1/made", "cannot be reached"),
        ("mysql://me:hunter2@host/made", r"mysql://, expected postgresql://"),
        ("postgresql://me:hunter2@host:port/made", r"expected postgresql://user@host/name"),
        ("me:hunter2@host", r"expected postgresql://user@host/name"),
    ],
)
def test_an_unusable_database_is_reported_without_its_password(url: str, message: str) -> None:
    with pytest.raises(DatabaseError, match=message) as caught:
        Ledger.open(url)
    assert "hunter2" not in str(caught.value) and "\n" not in str(caught.value)


def test_a_kept_connection_is_one_until_it_rests(ledger: Ledger, empty_url: str) -> None:
    """Short units share a connection; a rest gives it back, and one that was lost is made again."""
    keeps = Ledger(empty_url, keep=True)
    begin(keeps)
    first = backends(empty_url)
    put(keeps, "a")
    assert len(first) == 1 and backends(empty_url) == first
    keeps.rest()
    until_none(empty_url)
    assert state(keeps, "a") is UnitState.OPEN
    second = backends(empty_url, "pg_terminate_backend(pid, 5000)")
    assert len(second) == 1 and second != first
    until_none(empty_url)
    assert state(keeps, "a") is UnitState.OPEN
    keeps.close()
    until_none(empty_url)


def backends(url: str, action: str = "true") -> set[int]:
    """The server's processes with a connection of a ledger; `action` is done to each."""
    statement = f"""SELECT pid, {action} FROM pg_stat_activity
        WHERE application_name = 'made' AND datname = current_database()"""
    engine = create_engine(url)
    with engine.connect() as connection:
        found = {row.pid for row in connection.execute(text(statement))}
    engine.dispose()
    return found


def until_none(url: str) -> None:
    """Waits for the end of the processes, which end a moment after their connections."""
    end = time.monotonic() + 30
    while left := backends(url):
        assert time.monotonic() < end, left
        time.sleep(0.01)
