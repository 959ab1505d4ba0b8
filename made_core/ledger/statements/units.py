"""Statements about units."""

from __future__ import annotations

from made_core.ledger.statements.fragments import KEYS, LEASE, NO_WAIT, READY_AT, TALLY, THESE, THESE_OR_ALL

LOST = "the worker was lost"

# Record that the run's stage consists of these units, and create those that do not exist yet.
PUT = f"""
    WITH recorded AS (
        INSERT INTO stage (run_id, stage, version, scope, keys, units)
        VALUES (:run_id, :stage, :version, :scope, CAST(:keys AS jsonb), :units)
        ON CONFLICT (run_id, stage) DO UPDATE SET version = excluded.version,
            scope = excluded.scope, keys = excluded.keys, units = excluded.units
    )
    INSERT INTO unit (stage, scope, key, max_attempts)
    SELECT :stage, :scope, key, :max FROM ({KEYS}) AS given (key)
    ORDER BY key  -- always the same order, so that two runs do not lock each other out
    ON CONFLICT (stage, scope, key) DO NOTHING
"""

# Lease up to `limit` units that are open and due, or whose lease expired; those whose lease expired in their
# last attempt fail. None if the run has ended: its workers may outlive it by seconds.
CLAIM = f"""
    WITH held AS MATERIALIZED (  -- leased by this very call, whose answer was lost
        SELECT id, key, attempts FROM unit
        WHERE {THESE} AND state = 'running' AND token = :token
    ), due AS MATERIALIZED (
        SELECT id, state, host, attempts, attempts >= max_attempts AS last FROM unit
        WHERE {THESE} AND state IN ('open', 'running') AND {READY_AT} <= now() AND {NO_WAIT}
            AND NOT EXISTS (SELECT FROM held)
            AND NOT EXISTS (SELECT FROM run WHERE id = :run AND state <> 'running')
        ORDER BY key LIMIT :limit FOR UPDATE SKIP LOCKED
    ), failed AS (
        UPDATE unit SET state = 'failed', error = '{LOST}', traceback = NULL,
            token = NULL, lease_until = NULL, progress = 0, finished_at = now()
        FROM due WHERE unit.id = due.id AND last
        RETURNING unit.id, unit.host, unit.attempts
    ), claimed AS (
        UPDATE unit SET state = 'running', attempts = unit.attempts + 1, token = :token,
            lease_until = {LEASE}, host = :host, run_id = :run, started_at = now(), progress = 0
        FROM due WHERE unit.id = due.id AND NOT last
        RETURNING unit.id, unit.key, unit.host, unit.attempts
    ), logged AS (
        INSERT INTO event (unit_id, host, attempt, kind, error, token)
        SELECT id, host, attempts, 'lost', NULL, NULL FROM due WHERE state = 'running' UNION ALL
        SELECT id, host, attempts, 'failed', '{LOST}', NULL FROM failed UNION ALL
        SELECT id, host, attempts, 'claimed', NULL, :token FROM claimed
    )
    SELECT id, key, attempts FROM claimed UNION ALL SELECT * FROM held ORDER BY key
"""

# Extend the leases of the units that these tokens still hold, and record their progress.
RENEW = f"""
    UPDATE unit SET lease_until = {LEASE}, progress = given.progress
    FROM unnest(CAST(:ids AS bigint[]), CAST(:tokens AS text[]), CAST(:done AS bigint[]))
        AS given (id, token, progress)
    WHERE unit.id = given.id AND unit.token = given.token AND {NO_WAIT} RETURNING unit.id
"""

# Commit the unit's output if the token still holds the unit; no row if it does not.
FINISH = """
    WITH done AS (
        UPDATE unit SET state = 'done', token = NULL, lease_until = NULL,
            finished_at = now(), progress = :samples, samples = :samples,
            counts = CAST(:counts AS jsonb), files = CAST(:files AS jsonb),
            error = NULL, traceback = NULL
        WHERE id = :id AND token = :token RETURNING id, host, attempts
    ), logged AS (
        INSERT INTO event (unit_id, host, attempt, kind)
        SELECT id, host, attempts, 'done' FROM done
    )
    SELECT id FROM done UNION ALL
    SELECT id FROM unit  -- committed before, and the answer was lost
    WHERE id = :id AND state = 'done' AND attempts = :attempt AND files = CAST(:files AS jsonb)
"""

# Release the unit after an error: it is open again or failed. Nothing changes if the token lost the unit.
FAIL = """
    WITH ended AS (
        UPDATE unit SET
            state = CASE WHEN final THEN 'failed' ELSE 'open' END,
            finished_at = CASE WHEN final THEN now() END,
            not_before = now() + make_interval(secs => :backoff),
            token = NULL, lease_until = NULL, progress = 0,
            error = :error, traceback = :trace
        FROM (SELECT id, CAST(:permanent AS boolean) OR attempts >= max_attempts AS final
            FROM unit WHERE id = :id AND token = :token FOR UPDATE) AS mine
        WHERE unit.id = mine.id RETURNING unit.id, host, attempts, state
    ), logged AS (
        INSERT INTO event (unit_id, host, attempt, kind, error, traceback)
        SELECT id, host, attempts,
            CASE state WHEN 'failed' THEN 'failed' ELSE 'retry' END, :error, :trace
        FROM ended
    )
    SELECT coalesce(ended.state, unit.state) AS state, ended.id IS NULL AS lost
    FROM unit LEFT JOIN ended ON true WHERE unit.id = :id
"""

# Give back the units that workers of the run hold: the attempt does not count; one row per unit.
RELEASE = """
    WITH due AS MATERIALIZED (
        SELECT id, host, attempts FROM unit WHERE run_id = :run AND state = 'running'
        ORDER BY id FOR UPDATE
    ), opened AS (
        UPDATE unit SET state = 'open', attempts = unit.attempts - 1, not_before = now(),
            token = NULL, lease_until = NULL, progress = 0
        FROM due WHERE unit.id = due.id
    )
    INSERT INTO event (unit_id, host, attempt, kind)
    SELECT id, host, attempts, 'released' FROM due RETURNING id
"""

# Reopen the units in the given state, with all attempts; one row per unit.
OPEN_AGAIN = f"""
    WITH due AS MATERIALIZED (
        SELECT id, host, attempts FROM unit WHERE {THESE} AND state = :state
        ORDER BY key FOR UPDATE
    ), opened AS (
        UPDATE unit SET state = 'open', attempts = 0, not_before = now(),
            started_at = NULL, finished_at = NULL, progress = 0, samples = NULL,
            counts = NULL, files = NULL, error = NULL, traceback = NULL
        FROM due WHERE unit.id = due.id
    )
    INSERT INTO event (unit_id, host, attempt, kind, error)
    SELECT id, host, attempts, 'reopened', CAST(:why AS text) FROM due RETURNING id
"""

# Reopen the units that failed because they had used all attempts, and give the open ones as many as this run
# allows; one row per reopened unit.
ALLOW = f"""
    WITH due AS MATERIALIZED (
        SELECT id, host, attempts FROM unit
        WHERE {THESE} AND state = 'failed' AND attempts >= max_attempts ORDER BY key FOR UPDATE
    ), opened AS (
        UPDATE unit SET state = 'open', attempts = 0, max_attempts = :max, not_before = now(),
            started_at = NULL, finished_at = NULL, progress = 0, error = NULL, traceback = NULL
        FROM due WHERE unit.id = due.id
    ), raised AS (
        UPDATE unit SET max_attempts = :max
        WHERE {THESE} AND state IN ('open', 'running') AND max_attempts < :max
    )
    INSERT INTO event (unit_id, host, attempt, kind)
    SELECT id, host, attempts, 'reopened' FROM due RETURNING id
"""

# The units that are neither done nor failed, and the seconds until each can be claimed.
PENDING = f"""
    SELECT key, CAST(extract(epoch FROM {READY_AT} - now()) AS float) AS seconds
    FROM unit WHERE {THESE_OR_ALL} AND state IN ('open', 'running') ORDER BY key
"""

# State and output of the units.
RESULTS = f"""
    SELECT key, state, files, samples, counts, error, attempts,
        CAST(extract(epoch FROM finished_at - started_at) AS float) AS seconds
    FROM unit WHERE {THESE_OR_ALL} ORDER BY key
"""

# The units of a run's stage, and the version of the stage.
OF_RUN = "SELECT version, scope, keys FROM stage WHERE run_id = :run_id AND stage = :stage"

# The number of units by state, and of their samples.
COUNT = f"SELECT {TALLY} FROM unit WHERE {THESE_OR_ALL}"

# The number of done units of each of these scopes, whatever their stage; scopes without one are left out.
DONE = """
    SELECT scope, count(*) AS units FROM unit
    WHERE scope = ANY(CAST(:scopes AS text[])) AND state = 'done' GROUP BY scope
"""

# All attempts at the units so far.
ATTEMPTS = f"""
    SELECT unit.id, key, attempt, event.token FROM event JOIN unit ON unit.id = unit_id
    WHERE {THESE} AND event.token IS NOT NULL
"""

# The events of the units, the oldest first.
EVENTS = f"""
    SELECT at, event.host, attempt, kind, event.error, event.traceback
    FROM event JOIN unit ON unit.id = unit_id WHERE {THESE} ORDER BY event.id
"""
