"""The ledger's tables, whose constraints referee, and the door to the database that has them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Connection,
    DateTime,
    Engine,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    NullPool,
    Row,
    Table,
    Text,
    UniqueConstraint,
    create_engine,
    func,
    make_url,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.exc import ArgumentError, DBAPIError, InterfaceError, OperationalError
from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception,
    stop_after_delay,
    wait_random_exponential,
)

from made_core.data import RunState, Stage, UnitState
from made_core.errors import DatabaseError, StorageFailed

log = logging.getLogger(__name__)

CONNECTION = {  # libpq: a host that fell silent is noticed within a minute
    "connect_timeout": 10,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 60_000,
    "application_name": "made",
}

VERSION_TABLE = "made_version"  # not alembic's default: Prefect may live in the same database
LOCK = 0x6D616465  # "made": held while the schema is being changed
EVENTS = ("claimed", "lost", "done", "retry", "failed", "reopened")
TIME = DateTime(timezone=True)
metadata = MetaData()


def _in(column: str, values: type[Enum]) -> str:
    return f"{column} IN ({', '.join(repr(member.value) for member in values)})"


run = Table(
    "run",
    metadata,
    Column("id", Text, primary_key=True),
    Column("identity", Text, nullable=False),  # digest of what decides the output
    Column("recipe", JSONB, nullable=False),
    Column("output", Text, nullable=False),
    Column("store", Text, nullable=False),
    Column("state", Text, nullable=False),
    Column("holder", Text),  # the process that drives it
    Column("lease_until", TIME),
    Column("replaced", Boolean, nullable=False, server_default=text("false")),
    Column("created_at", TIME, nullable=False, server_default=func.now()),
    Column("updated_at", TIME, nullable=False, server_default=func.now()),
    Column("summary", JSONB),
    Column("error", Text),
    CheckConstraint(_in("state", RunState), name="run_state_known"),
    CheckConstraint("(holder IS NULL) = (lease_until IS NULL)", name="run_holder_has_lease"),
    CheckConstraint("(state = 'running') = (holder IS NOT NULL)", name="run_running_is_held"),
    CheckConstraint("state <> 'failed' OR error IS NOT NULL", name="run_failed_has_error"),
    CheckConstraint("NOT (replaced AND state = 'running')", name="run_replaced_rests"),
    Index("run_output_live", "output", unique=True, postgresql_where=text("NOT replaced")),
)

shard = Table(
    "shard",
    metadata,
    Column("run_id", Text, ForeignKey("run.id", name="shard_run"), primary_key=True),
    Column("id", Text, primary_key=True),
    Column("url", Text, nullable=False),
    Column("fingerprint", Text, nullable=False),
    Column("size", BigInteger, nullable=False),  # bytes
    Column("expected", BigInteger),  # samples
    CheckConstraint("size >= 0 AND expected >= 0", name="shard_counts"),
    Index("shard_fingerprint", "run_id", "fingerprint"),
)

stage = Table(
    "stage",
    metadata,
    Column("run_id", Text, ForeignKey("run.id", name="stage_run"), primary_key=True),
    Column("stage", Text, primary_key=True),
    Column("scope", Text, nullable=False),  # which units are this run's
    Column("units", Integer, nullable=False),
    CheckConstraint(_in("stage", Stage), name="stage_known"),
    CheckConstraint("units >= 0", name="stage_units"),
)

unit = Table(
    "unit",
    metadata,
    Column("id", BigInteger, primary_key=True),
    Column("stage", Text, nullable=False),
    Column("scope", Text, nullable=False),  # digest of everything that the result depends on
    Column("key", Text, nullable=False),
    Column("state", Text, nullable=False, server_default=text("'open'")),
    Column("attempts", Integer, nullable=False, server_default=text("0")),
    Column("max_attempts", Integer, nullable=False),
    Column("not_before", TIME, nullable=False, server_default=func.now()),
    Column("lease_until", TIME),
    Column("token", Text),  # fences the lease
    Column("host", Text),  # of the last claim
    Column("started_at", TIME),  # of the last attempt
    Column("finished_at", TIME),
    Column("progress", BigInteger, nullable=False, server_default=text("0")),  # samples so far
    Column("samples", BigInteger),
    Column("counts", JSONB),
    Column("files", JSONB),  # [{path, size, digest}]
    Column("error", Text),
    Column("traceback", Text),
    UniqueConstraint("stage", "scope", "key", name="unit_key"),
    CheckConstraint(_in("stage", Stage), name="unit_stage_known"),
    CheckConstraint(_in("state", UnitState), name="unit_state_known"),
    CheckConstraint(
        "(state = 'running') = (token IS NOT NULL) AND (state = 'running') = (lease_until IS NOT NULL)",
        name="unit_running_has_lease",
    ),
    CheckConstraint(
        "state <> 'running' OR (attempts >= 1 AND host IS NOT NULL AND started_at IS NOT NULL)",
        name="unit_running_has_start",
    ),
    CheckConstraint(
        "(state = 'done') = (files IS NOT NULL) AND (state = 'done') = (samples IS NOT NULL) "
        "AND (state = 'done') = (counts IS NOT NULL)",
        name="unit_done_has_result",
    ),
    CheckConstraint("(state IN ('done', 'failed')) = (finished_at IS NOT NULL)", name="unit_finish_has_time"),
    CheckConstraint("state <> 'failed' OR error IS NOT NULL", name="unit_failed_has_error"),
    CheckConstraint(
        "attempts BETWEEN 0 AND max_attempts AND max_attempts >= 1 "
        "AND (state <> 'open' OR attempts < max_attempts)",
        name="unit_attempts",
    ),
    CheckConstraint("progress >= 0 AND samples >= 0", name="unit_counts"),
    # With the key in it, no plan on it is worse than one on unit_key, whatever the statistics say.
    Index(
        "unit_claimable",
        "stage",
        "scope",
        "key",
        postgresql_where=text("state IN ('open', 'running')"),
    ),
)

event = Table(
    "event",
    metadata,
    Column("id", BigInteger, primary_key=True),
    Column("unit_id", BigInteger, ForeignKey("unit.id", name="event_unit"), nullable=False),
    Column("at", TIME, nullable=False, server_default=func.now()),
    Column("host", Text),
    Column("attempt", Integer, nullable=False),
    Column("kind", Text, nullable=False),
    Column("error", Text),
    Column("traceback", Text),
    CheckConstraint(f"kind IN ({', '.join(map(repr, EVENTS))})", name="event_kind_known"),
    Index("event_of_unit", "unit_id", "id"),
)


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
        """Let go of the engine."""
        self._engine.dispose()

    def one(self, sql: str, values: dict[str, Any]) -> Row[Any]:
        """The first row of `all`."""
        return self.all(sql, values)[0]

    def all(self, sql: str, values: dict[str, Any]) -> Sequence[Row[Any]]:
        """The rows of one statement, tried for `patience` seconds while nothing answers.

        The statement must bear being run again after it was done and its answer was lost.

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
        log.warning("%s does not answer, trying on for up to %g s: %s",
                    self.place, self.patience, _reason(error))  # fmt: skip

    def prepare(self) -> None:
        """See that the database answers and has this program's tables: creates, or upgrades them.

        Raises:
            DatabaseError: unreachable (tried once), or of a version unknown to this program.
        """
        try:
            connect = self._engine.connect().execution_options(isolation_level="READ COMMITTED")
            with connect as connection, connection.begin():
                self._migrate(connection)
        except DBAPIError as error:
            what = "cannot be reached" if _unanswered(error) else "cannot hold the ledger"
            raise DatabaseError(f"{self.place} {what}: {_reason(error)}") from None

    def _migrate(self, connection: Connection) -> None:
        config = Config()
        folder = str(Path(__file__).with_name("migrations"))
        config.set_main_option("script_location", folder.replace("%", "%%"))
        config.attributes["connection"] = connection
        scripts = ScriptDirectory.from_config(config)
        head = scripts.get_current_head()

        def current() -> str | None:
            options = {"version_table": VERSION_TABLE}
            return MigrationContext.configure(connection, opts=options).get_current_revision()

        found = current()
        if found != head:  # ours to change, or another process is at it: then see what it made
            connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": LOCK})
            found = current()
        if found is not None and found not in {s.revision for s in scripts.walk_revisions()}:
            raise DatabaseError(
                f"{self.place} is of another version of made: its schema is {found}, "
                f"this program knows up to {head}"
            )
        if found != head:
            command.upgrade(config, "head")


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
