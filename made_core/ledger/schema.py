"""The ledger's tables, whose constraints referee."""

from __future__ import annotations

from enum import Enum

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import JSONB

from made_core.types import RunState, Stage, UnitState

VERSION_TABLE = "made_version"  # not alembic's default: Prefect may live in the same database
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
    Column("corpus", JSONB),  # pointer to its table in the store
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
    Column("files", JSONB),  # [{path, size, digest, blocks}]
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
    Column("token", Text),  # of a claim
    CheckConstraint(f"kind IN ({', '.join(map(repr, EVENTS))})", name="event_kind_known"),
    Index("event_of_unit", "unit_id", "id"),
)
