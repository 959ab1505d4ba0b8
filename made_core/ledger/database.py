"""The door to the database that holds the ledger: its connections and retries."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Engine, NullPool, Row, create_engine, make_url, text
from sqlalchemy.exc import ArgumentError, DBAPIError, InterfaceError, OperationalError
from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception,
    stop_after_delay,
    wait_random_exponential,
)

from made_core.errors import DatabaseError, StorageFailed
from made_core.ledger.schema import upgrade

log = logging.getLogger(__name__)

CONNECTION = {  # libpq: a host that fell silent is noticed within a minute
    "connect_timeout": 10,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 60_000,
    "application_name": "made",
}
TEXT_LIMIT = 20_000  # characters kept of an error or a traceback


class Database:
    """Runs statements, each in a connection and a transaction of its own. Threads may share it."""

    def __init__(self, url: str, patience: float) -> None:
        """Args: url: `postgresql://` or `postgresql+psycopg://`; patience: seconds.

        Raises:
            DatabaseError: no such URL.
        """
        self.patience = patience
        self._engine, self.place = _engine(url)

    def close(self) -> None:
        """Close the engine."""
        self._engine.dispose()

    def one(self, sql: str, values: dict[str, Any]) -> Row[Any]:
        """The first row of `all`."""
        return self.all(sql, values)[0]

    def all(self, sql: str, values: dict[str, Any]) -> Sequence[Row[Any]]:
        """The rows of one statement, tried for `patience` seconds while nothing answers.

        The statement may run again after it was done and its answer was lost: it must allow for that.

        Raises:
            StorageFailed: still no answer.
        """
        statement = text(sql)

        def call() -> Sequence[Row[Any]]:
            with self._engine.connect() as connection:
                result = connection.execute(statement, values)
                return result.all() if result.returns_rows else []

        retrying = Retrying(
            retry=retry_if_exception(_unanswered),
            stop=stop_after_delay(self.patience),
            wait=wait_random_exponential(multiplier=0.2, max=10),
            before_sleep=self._warn,
            reraise=True,
        )
        try:
            return retrying(call)
        except DBAPIError as error:
            if not _unanswered(error):
                raise
            raise StorageFailed(f"{self.place}, tried for {self.patience:g} s: {_reason(error)}") from error

    def _warn(self, state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        log.warning("%s does not answer, retrying for up to %g s: %s",
                    self.place, self.patience, _reason(error))  # fmt: skip

    def prepare(self) -> None:
        """Check that the database answers, and create or upgrade its tables.

        Raises:
            DatabaseError: unreachable (tried once), or of a version unknown to this program.
        """
        try:
            connect = self._engine.connect().execution_options(isolation_level="READ COMMITTED")
            with connect as connection, connection.begin():
                upgrade(connection, self.place)
        except DBAPIError as error:
            what = "cannot be reached" if _unanswered(error) else "cannot hold the ledger"
            raise DatabaseError(f"{self.place} {what}: {_reason(error)}") from None


def _engine(url: str) -> tuple[Engine, str]:
    """The engine, and the database as people may read it."""
    try:
        parsed = make_url(url)
    except ArgumentError:
        # The text is not repeated: it may hold a password.
        raise DatabaseError("MADE_DATABASE_URL: expected postgresql://user@host/name") from None
    if parsed.drivername not in ("postgresql", "postgresql+psycopg"):
        raise DatabaseError(f"MADE_DATABASE_URL: {parsed.drivername}://, expected postgresql://")
    host = parsed.host or parsed.query.get("host") or "the local socket"
    port = f":{parsed.port}" if parsed.port else ""
    engine = create_engine(
        parsed.set(drivername="postgresql+psycopg"),
        # 500 workers share 100 connections: each has one only while a statement runs.
        poolclass=NullPool,
        isolation_level="AUTOCOMMIT",
        hide_parameters=True,  # of an error: they may be megabytes of keys
        connect_args={name: CONNECTION[name] for name in CONNECTION if name not in parsed.query},
    )
    return engine, f"database {parsed.database or ''} on {host}{port}"


def _unanswered(error: BaseException) -> bool:
    """Whether the statement may succeed later: gone, starting, stopping, full, deadlocked."""
    if isinstance(error, (OperationalError, InterfaceError)):
        return True
    return isinstance(error, DBAPIError) and error.connection_invalidated


def _reason(error: BaseException | None) -> str:
    return " ".join(str(error.orig if isinstance(error, DBAPIError) else error).split())


def clean(said: str | None) -> str | None:
    """Text that PostgreSQL can hold: no NUL, no lone surrogates, not endless."""
    if said is None:
        return None
    if len(said) > TEXT_LIMIT:
        said = f"{said[: TEXT_LIMIT // 2]} [...] {said[-TEXT_LIMIT // 2 :]}"
    return said.replace("\0", "\\x00").encode("utf-8", "backslashreplace").decode("utf-8")
