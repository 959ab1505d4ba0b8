"""The ledger: run, shard, stage, unit, event."""

from __future__ import annotations

from alembic import op

revision = "0001"
down_revision = None

STAGES = "'embed', 'catalog', 'fit', 'assign', 'pairs', 'audit', 'resolve', 'decide', 'write'"

# Storage of unit: free space keeps renewed rows on their page; early vacuum keeps claims fast.
TABLES = (
    """
    CREATE TABLE run (
        id text PRIMARY KEY,
        identity text NOT NULL,
        recipe jsonb NOT NULL,
        output text NOT NULL,
        store text NOT NULL,
        state text NOT NULL,
        holder text,
        lease_until timestamptz,
        replaced boolean NOT NULL DEFAULT false,
        created_at timestamptz NOT NULL DEFAULT now(),
        updated_at timestamptz NOT NULL DEFAULT now(),
        summary jsonb,
        error text,
        CONSTRAINT run_state_known CHECK (
            state IN ('running', 'completed', 'completed_with_failures', 'failed')),
        CONSTRAINT run_holder_has_lease CHECK ((holder IS NULL) = (lease_until IS NULL)),
        CONSTRAINT run_running_is_held CHECK ((state = 'running') = (holder IS NOT NULL)),
        CONSTRAINT run_failed_has_error CHECK (state <> 'failed' OR error IS NOT NULL),
        CONSTRAINT run_replaced_rests CHECK (NOT (replaced AND state = 'running'))
    )
    """,
    "CREATE UNIQUE INDEX run_output_live ON run (output) WHERE NOT replaced",
    """
    CREATE TABLE shard (
        run_id text NOT NULL CONSTRAINT shard_run REFERENCES run (id),
        id text NOT NULL,
        url text NOT NULL,
        fingerprint text NOT NULL,
        size bigint NOT NULL,
        expected bigint,
        PRIMARY KEY (run_id, id),
        CONSTRAINT shard_counts CHECK (size >= 0 AND expected >= 0)
    )
    """,
    "CREATE INDEX shard_fingerprint ON shard (run_id, fingerprint)",
    f"""
    CREATE TABLE stage (
        run_id text NOT NULL CONSTRAINT stage_run REFERENCES run (id),
        stage text NOT NULL,
        scope text NOT NULL,
        units integer NOT NULL,
        PRIMARY KEY (run_id, stage),
        CONSTRAINT stage_known CHECK (stage IN ({STAGES})),
        CONSTRAINT stage_units CHECK (units >= 0)
    )
    """,
    f"""
    CREATE TABLE unit (
        id bigserial PRIMARY KEY,
        stage text NOT NULL,
        scope text NOT NULL,
        key text NOT NULL,
        state text NOT NULL DEFAULT 'open',
        attempts integer NOT NULL DEFAULT 0,
        max_attempts integer NOT NULL,
        not_before timestamptz NOT NULL DEFAULT now(),
        lease_until timestamptz,
        token text,
        host text,
        started_at timestamptz,
        finished_at timestamptz,
        progress bigint NOT NULL DEFAULT 0,
        samples bigint,
        counts jsonb,
        files jsonb,
        error text,
        traceback text,
        CONSTRAINT unit_key UNIQUE (stage, scope, key),
        CONSTRAINT unit_stage_known CHECK (stage IN ({STAGES})),
        CONSTRAINT unit_state_known CHECK (state IN ('open', 'running', 'done', 'failed')),
        CONSTRAINT unit_running_has_lease CHECK (
            (state = 'running') = (token IS NOT NULL)
            AND (state = 'running') = (lease_until IS NOT NULL)),
        CONSTRAINT unit_running_has_start CHECK (
            state <> 'running'
            OR (attempts >= 1 AND host IS NOT NULL AND started_at IS NOT NULL)),
        CONSTRAINT unit_done_has_result CHECK (
            (state = 'done') = (files IS NOT NULL) AND (state = 'done') = (samples IS NOT NULL)
            AND (state = 'done') = (counts IS NOT NULL)),
        CONSTRAINT unit_finish_has_time CHECK (
            (state IN ('done', 'failed')) = (finished_at IS NOT NULL)),
        CONSTRAINT unit_failed_has_error CHECK (state <> 'failed' OR error IS NOT NULL),
        CONSTRAINT unit_attempts CHECK (
            attempts BETWEEN 0 AND max_attempts AND max_attempts >= 1
            AND (state <> 'open' OR attempts < max_attempts)),
        CONSTRAINT unit_counts CHECK (progress >= 0 AND samples >= 0)
    ) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.05)
    """,
    """
    CREATE INDEX unit_claimable ON unit (stage, scope, key)
    WHERE state IN ('open', 'running')
    """,
    """
    CREATE TABLE event (
        id bigserial PRIMARY KEY,
        unit_id bigint NOT NULL CONSTRAINT event_unit REFERENCES unit (id),
        at timestamptz NOT NULL DEFAULT now(),
        host text,
        attempt integer NOT NULL,
        kind text NOT NULL,
        error text,
        traceback text,
        CONSTRAINT event_kind_known CHECK (
            kind IN ('claimed', 'lost', 'done', 'retry', 'failed', 'reopened'))
    )
    """,
    "CREATE INDEX event_of_unit ON event (unit_id, id)",
)


def upgrade() -> None:
    """Create the tables."""
    for statement in TABLES:
        op.execute(statement)


def downgrade() -> None:
    """Drop them."""
    op.execute("DROP TABLE event, unit, stage, shard, run")
