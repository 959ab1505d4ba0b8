"""The version and the keys of a run's stages; comments on every column.

The names of stages are no longer checked here: made_core.stages lists them. From this version on, an
output's files are a JSON object instead of a list; older outputs are in scopes that are not used again.
"""

from __future__ import annotations

from alembic import op

revision = "0003"
down_revision = "0002"

CHANGES = (
    "ALTER TABLE run RENAME COLUMN identity TO recipe_digest",
    "ALTER TABLE stage ADD COLUMN version integer NOT NULL DEFAULT 0",
    "ALTER TABLE stage ADD COLUMN keys jsonb",
    # Runs share the scope of embed; no other stage's scope is shared.
    """
    UPDATE stage SET keys = (
        SELECT coalesce(jsonb_agg(DISTINCT fingerprint), '[]') FROM shard WHERE shard.run_id = stage.run_id
    ) WHERE stage = 'embed'
    """,
    "ALTER TABLE stage DROP CONSTRAINT stage_known",
    "ALTER TABLE unit DROP CONSTRAINT unit_stage_known",
)

COMMENTS = {
    "run": "A run of the flow, over all its restarts.",
    "run.id": "Start time and random digits.",
    "run.recipe_digest": "Digest of all recipe fields that affect the output.",
    "run.recipe": "The whole recipe, with absolute paths.",
    "run.output": "URL or absolute path of the output folder.",
    "run.store": "URL or absolute path of the store, which runs may share.",
    "run.state": "running: a process drives it, or did until it died.",
    "run.holder": "The process that drives it: host:pid.",
    "run.lease_until": "End of the holder's lease, unless renewed.",
    "run.replaced": "The output belongs to a later run.",
    "run.created_at": "When it first started.",
    "run.updated_at": "Last change or renewal.",
    "run.summary": "Content of summary.json, once the run has ended.",
    "run.error": "Why it failed.",
    "run.corpus": "Pointer to the table of its shards in the store: {path, size, digest, blocks}.",
    "shard": "An input shard of a run.",
    "shard.run_id": "The run that reads it.",
    "shard.id": "Name of the tar; where names collide, followed by a short fingerprint.",
    "shard.url": "Where the tar is.",
    "shard.fingerprint": "32 hex digits over size, stats, first and last 64 KiB.",
    "shard.size": "Bytes.",
    "shard.expected": "Samples according to its stats; null: it has none.",
    "stage": "A stage that a run has started, and the keys of its units.",
    "stage.run_id": "The run.",
    "stage.stage": "Name of the stage.",
    "stage.scope": "Scope of the run's units.",
    "stage.units": "Number of the run's units.",
    "stage.version": "Version of the stage; 0: recorded before stages had versions.",
    "stage.keys": "Keys of the run's units, a JSON array; null: all units of the scope (version 0 only).",
    "unit": "A unit of work. Runs with the same scope share it.",
    "unit.id": "In the order of creation.",
    "unit.stage": "Name of the stage.",
    "unit.scope": "Digest of all that the result depends on, except the key.",
    "unit.key": "Which part of the stage: a shard's fingerprint, a range of clusters, ...",
    "unit.state": "failed: a permanent error, or no attempts are left.",
    "unit.attempts": "Number of attempts started since it was last opened.",
    "unit.max_attempts": "Number of attempts after which it fails.",
    "unit.not_before": "Time from which an open unit can be claimed.",
    "unit.lease_until": "Time from which others can claim a running unit, unless renewed.",
    "unit.token": "Token of the running attempt: only its holder can finish the unit.",
    "unit.host": "Host and process of the last attempt.",
    "unit.started_at": "Start of the last attempt.",
    "unit.finished_at": "When it was done or failed.",
    "unit.progress": "Samples done so far in the running attempt.",
    "unit.samples": "Samples of the output.",
    "unit.counts": "Counts of the output, a JSON object by name.",
    "unit.files": "Pointers to the files of the output, a JSON object by name; a list before schema 0003.",
    "unit.error": "Error of the last attempt that failed.",
    "unit.traceback": "Traceback of the same attempt.",
    "event": "A change of a unit's state.",
    "event.id": "In the order of events.",
    "event.unit_id": "The unit.",
    "event.at": "When it happened.",
    "event.host": "Host and process of the attempt.",
    "event.attempt": "Number of the attempt.",
    "event.kind": "claimed, done, failed or reopened; retry: an error, to be retried; lost: the lease expired.",
    "event.error": "Message of the error, if there was one.",
    "event.traceback": "Traceback of the same error.",
    "event.token": "Token of a claim: it identifies an attempt's files as this ledger's.",
}


def upgrade() -> None:
    """Change the tables and comment on them."""
    for statement in CHANGES:
        op.execute(statement)
    for name, comment in COMMENTS.items():
        kind = "COLUMN" if "." in name else "TABLE"
        quoted = comment.replace("'", "''")
        op.execute(f"COMMENT ON {kind} {name} IS '{quoted}'")


def downgrade() -> None:
    """Refused: the earlier program cannot read the outputs of this one."""
    raise NotImplementedError("schema 0003 cannot be changed back to 0002: restore a backup of the ledger")
