"""Access to the ledger's database: connections and retries."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from ipaddress import ip_address
from typing import Any

from sqlalchemy import URL, Engine, NullPool, QueuePool, Row, create_engine, make_url, text
from sqlalchemy.exc import ArgumentError, DBAPIError, InterfaceError, OperationalError
from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception,
    stop_after_delay,
    wait_random_exponential,
)

from made_core.errors import DatabaseError, StorageFailed

log = logging.getLogger(__name__)

CONNECTION = {  # of libpq: detects a host that does not respond within a minute
    "connect_timeout": 10,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 60_000,
    "application_name": "made",
}
TEXT_LIMIT = 20_000  # characters kept of an error or a traceback

Values = Mapping[str, object]  # parameters of a statement, by name


class Database:
    """Runs statements, each in a transaction of its own. Thread-safe."""

    def __init__(self, url: str, patience: float, keep: bool = False) -> None:
        """Prepares connections; none is made yet.

        Args:
            url: `postgresql://` or `postgresql+psycopg://`.
            patience: seconds.
            keep: keep a connection for the next statement, until `rest`; default: connect for each.

        Raises:
            DatabaseError: the URL is invalid.
        """
        self.patience = patience
        self._engine, self.name = _engine(url, keep)

    def close(self) -> None:
        """Close the engine."""
        self._engine.dispose()

    def rest(self) -> None:
        """Close the kept connection; the next statement makes another."""
        self._engine.pool.dispose()

    def one(self, sql: str, values: Values) -> Row[Any]:
        """The first row of `all`."""
        return self.all(sql, values)[0]

    def all(self, sql: str, values: Values) -> Sequence[Row[Any]]:
        """The rows of one statement, retried for `patience` seconds while the database does not answer.

        The statement must be idempotent: it runs again if it was committed but its answer was lost.

        Raises:
            StorageFailed: the database did not answer for `patience` seconds.
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
            raise StorageFailed(f"{self.name}, tried for {self.patience:g} s: {_reason(error)}") from error

    def _warn(self, state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        log.warning("%s does not answer, retrying for up to %g s: %s",
                    self.name, self.patience, _reason(error))  # fmt: skip

    def prepare(self) -> None:
        """Check that the database answers, and create or upgrade its tables.

        Raises:
            DatabaseError: the database is unreachable (tried once), cannot have the tables, or has an
                unknown schema version.
        """
        from made_core.ledger.upgrade import upgrade  # here: it imports alembic, which workers do not need

        try:
            connect = self._engine.connect().execution_options(isolation_level="READ COMMITTED")
            with connect as connection, connection.begin():
                upgrade(connection, self.name)
        except DBAPIError as error:
            what = "cannot be reached" if _unanswered(error) else "cannot hold the ledger"
            raise DatabaseError(f"{self.name} {what}: {_reason(error)}") from None


def _parsed(url: str) -> URL:
    try:
        return make_url(url)
    except (ArgumentError, ValueError):  # ValueError: of a port that is no number
        # Does not quote the URL: it may contain a password.
        raise DatabaseError("MADE_DATABASE_URL: expected postgresql://user@host/name") from None


def _engine(url: str, keep: bool) -> tuple[Engine, str]:
    """The engine, and a name of the database for messages, without a password."""
    parsed = _parsed(url)
    if parsed.drivername not in ("postgresql", "postgresql+psycopg"):
        raise DatabaseError(f"MADE_DATABASE_URL: {parsed.drivername}://, expected postgresql://")
    host = parsed.host or parsed.query.get("host") or "the local socket"
    port = f":{parsed.port}" if parsed.port else ""
    # Hundreds of workers share the server's connections, so one is made for each statement, which costs more
    # than the statement; or kept while statements follow each other. Threads that need more make them.
    pool: dict[str, Any] = {"poolclass": NullPool}
    if keep:
        pool = {"poolclass": QueuePool, "pool_size": 1, "max_overflow": -1}
    engine = create_engine(
        parsed.set(drivername="postgresql+psycopg"),
        **pool,
        isolation_level="AUTOCOMMIT",
        hide_parameters=True,  # in errors: they can be megabytes of keys
        connect_args={name: CONNECTION[name] for name in CONNECTION if name not in parsed.query}
        | {"prepare_threshold": None},  # a plan for the values at hand, on a kept connection too
    )
    return engine, f"database {parsed.database or ''} on {host}{port}"


def is_loopback(url: str) -> bool:
    """Whether only processes of this host can reach a database. Raises DatabaseError: the URL is invalid."""
    parsed = _parsed(url)
    host = parsed.host or parsed.query.get("host") or ""
    name = host if isinstance(host, str) else host[0]
    if not name or name.startswith("/") or name == "localhost":  # a socket, by default or by name
        return True
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return False


def _unanswered(error: BaseException) -> bool:
    """Whether a retry may succeed: the server is down, starting, stopping, full, or had a deadlock."""
    if isinstance(error, (OperationalError, InterfaceError)):
        return True
    return isinstance(error, DBAPIError) and error.connection_invalidated


def _reason(error: BaseException | None) -> str:
    return " ".join(str(error.orig if isinstance(error, DBAPIError) else error).split())


def clean(message: str | None) -> str | None:
    """The message as PostgreSQL can store it: without NUL and lone surrogates, and of limited length."""
    if message is None:
        return None
    if len(message) > TEXT_LIMIT:
        message = f"{message[: TEXT_LIMIT // 2]} [...] {message[-TEXT_LIMIT // 2 :]}"
    return message.replace("\0", "\\x00").encode("utf-8", "backslashreplace").decode("utf-8")
