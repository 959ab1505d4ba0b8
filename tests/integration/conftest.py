"""A PostgreSQL server for the session and a new database for each test that uses a ledger."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest
from sqlalchemy import create_engine, make_url, text

from made_core.ledger.ledger import Ledger
from made_core.ledger.postgres import embedded


@pytest.fixture(scope="session")
def database_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of the session's own server."""
    with embedded(tmp_path_factory.mktemp("postgres")) as url:
        # The data need not survive a crash, and a database per test is too much to sync to disk.
        engine = create_engine(url, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.execute(text("ALTER SYSTEM SET fsync = off"))
            connection.execute(text("SELECT pg_reload_conf()"))
        engine.dispose()
        yield url


@pytest.fixture
def empty_url(database_url: str) -> str:
    """URL of an empty database on it."""
    name = f"t{uuid.uuid4().hex}"
    engine = create_engine(database_url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name} TEMPLATE template0 STRATEGY wal_log"))
    engine.dispose()
    return make_url(database_url).set(database=name).render_as_string(hide_password=False)


@pytest.fixture
def ledger(empty_url: str) -> Iterator[Ledger]:
    """A ledger on an empty database."""
    ledger = Ledger.open(empty_url, patience=30)
    yield ledger
    ledger.close()
