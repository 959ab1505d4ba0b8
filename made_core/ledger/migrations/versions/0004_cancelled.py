"""Runs that were cancelled; for which run a unit is computed, so that its end can release the lease."""

from __future__ import annotations

from alembic import op

revision = "0004"
down_revision = "0003"

STATES = "'running', 'completed', 'completed_with_failures', 'failed'"
KINDS = "'claimed', 'lost', 'done', 'retry', 'failed', 'reopened'"
COMMENTS = {
    "unit.run_id": "The run of the worker that last claimed it; null: claimed before schema 0004.",
    "event.kind": "claimed, done, failed, reopened; retry: an error, to be retried; lost: the lease expired; "
    "released: its run was stopped.",
    "run.error": "Why it failed or was cancelled.",
}


def upgrade() -> None:
    """Adds the state, the kind of event and the column."""
    _check("run", "run_state_known", f"state IN ({STATES}, 'cancelled')")
    _check("event", "event_kind_known", f"kind IN ({KINDS}, 'released')")
    op.execute("ALTER TABLE unit ADD COLUMN run_id text")
    op.execute("CREATE INDEX unit_of_running ON unit (run_id) WHERE state = 'running'")
    for name, comment in COMMENTS.items():
        op.execute(f"COMMENT ON COLUMN {name} IS '{comment}'")


def downgrade() -> None:
    """Removes them; cancelled runs become failed ones."""
    op.execute("UPDATE run SET state = 'failed' WHERE state = 'cancelled'")
    op.execute("UPDATE event SET kind = 'reopened' WHERE kind = 'released'")
    _check("run", "run_state_known", f"state IN ({STATES})")
    _check("event", "event_kind_known", f"kind IN ({KINDS})")
    op.execute("DROP INDEX unit_of_running")
    op.execute("ALTER TABLE unit DROP COLUMN run_id")


def _check(table: str, name: str, condition: str) -> None:
    op.execute(f"ALTER TABLE {table} DROP CONSTRAINT {name}")
    op.execute(f"ALTER TABLE {table} ADD CONSTRAINT {name} CHECK ({condition})")
