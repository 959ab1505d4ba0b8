"""Statements about runs and their shards."""

from __future__ import annotations

from made_core.ledger.statements.fragments import LEASE

# Resume the run that owns the output, if it has the same recipe, or start one, if the output is free or may
# be replaced. `id` is null if neither was possible; the other columns show why. A run that failed before its
# first unit has written nothing and may always be replaced.
BEGIN = f"""
    WITH live AS MATERIALIZED (
        SELECT *, recipe_digest = :recipe_digest AS same,
            CAST(:replace AS boolean) OR state = 'failed'
                AND NOT EXISTS (SELECT FROM stage WHERE run_id = run.id) AS replaceable,
            coalesce(lease_until > now() AND holder <> :holder, false) AS held
        FROM run WHERE output = :output AND NOT replaced FOR UPDATE
    ), resumed AS (
        UPDATE run SET state = 'running', error = NULL, updated_at = now(),
            recipe = CAST(:recipe AS jsonb), store = :store,
            holder = :holder, lease_until = {LEASE}
        FROM live WHERE run.id = live.id AND same AND NOT held RETURNING run.id
    ), ended AS (
        UPDATE run SET replaced = true, updated_at = now(),
            holder = NULL, lease_until = NULL,
            state = CASE run.state WHEN 'running' THEN 'failed' ELSE run.state END,
            error = CASE run.state WHEN 'running'
                THEN 'replaced by run ' || :run_id ELSE run.error END
        FROM live WHERE run.id = live.id AND NOT same AND NOT held
            AND replaceable RETURNING run.id
    ), begun AS (
        INSERT INTO run
            (id, recipe_digest, recipe, output, store, state, holder, lease_until)
        SELECT :run_id, :recipe_digest, CAST(:recipe AS jsonb), :output, :store,
            'running', :holder, {LEASE}
        WHERE NOT EXISTS (SELECT FROM live) OR EXISTS (SELECT FROM ended)
        ON CONFLICT (output) WHERE NOT replaced DO NOTHING RETURNING id
    )
    SELECT coalesce((SELECT id FROM resumed), (SELECT id FROM begun)) AS id,
        live.id AS owner, live.held, live.same, live.holder, live.lease_until, live.created_at
    FROM (SELECT) AS one LEFT JOIN live ON true
"""

# Extend the lease of a run; no row if the holder no longer has it.
RENEW = f"""
    UPDATE run SET lease_until = {LEASE}, updated_at = now()
    WHERE id = :run_id AND holder = :holder RETURNING id
"""

# End the lease of a holder that has died; no row if it is not the holder.
FREE = """
    UPDATE run SET lease_until = now(), updated_at = now()
    WHERE id = :run_id AND holder = :holder RETURNING id
"""

# Record how a run ended and release it; no row if the holder no longer has it.
END = """
    WITH ended AS (
        UPDATE run SET state = :state, summary = CAST(:summary AS jsonb), error = :error,
            holder = NULL, lease_until = NULL, updated_at = now()
        WHERE id = :run_id AND holder = :holder RETURNING id
    )
    SELECT id FROM ended UNION ALL
    SELECT id FROM run  -- recorded before, and the answer was lost
    WHERE id = :run_id AND holder IS NULL AND NOT replaced AND state = :state
        AND summary IS NOT DISTINCT FROM CAST(:summary AS jsonb)
"""

# Record the given shards as the run's input, replacing the recorded ones.
PUT_SHARDS = """
    WITH given AS MATERIALIZED (
        SELECT * FROM json_to_recordset(CAST(:shards AS json))
        AS given (id text, url text, fingerprint text, size bigint, expected bigint)
    ), gone AS (
        DELETE FROM shard WHERE run_id = :run_id
            AND NOT EXISTS (SELECT FROM given WHERE given.id = shard.id)
    )
    INSERT INTO shard (run_id, id, url, fingerprint, size, expected)
    SELECT :run_id, id, url, fingerprint, size, expected FROM given
    ON CONFLICT (run_id, id) DO UPDATE SET url = excluded.url, size = excluded.size,
        fingerprint = excluded.fingerprint, expected = excluded.expected
"""

# Record the table of the run's corpus.
PUT_CORPUS = "UPDATE run SET corpus = CAST(:corpus AS jsonb) WHERE id = :run_id"

# The run's input shards, sorted by id.
SHARDS = "SELECT id, url, fingerprint, size, expected FROM shard WHERE run_id = :run_id ORDER BY id"

_RUN = "SELECT *, coalesce(lease_until > now(), false) AS held FROM run"

# All runs, the newest first.
ALL = f"{_RUN} ORDER BY created_at DESC, id"

# The run with this id.
GET = f"{_RUN} WHERE id = :run_id"

# The scopes of every run's stages.
SCOPES = "SELECT run_id, scope FROM stage"

# The run that owns the output.
OF_OUTPUT = f"{_RUN} WHERE output = :output AND NOT replaced"
