"""Statements about the progress of a run's stages."""

from __future__ import annotations

from made_core.ledger.statements.fragments import TALLY

# The units of a run: those whose keys its stage rows have, or all of the scope if a row has no keys. Because
# of the OR, PostgreSQL always hashes the keys, whatever the statistics. A join with the keys would be planned
# for their estimated number, which is 100 for any JSON array: 20 s for 10,000 units.
_OF_RUN = """
    SELECT unit.* FROM stage
    JOIN unit ON unit.stage = stage.stage AND unit.scope = stage.scope
    WHERE stage.run_id = :run_id AND (stage.keys IS NULL OR (unit.stage, unit.key) IN (
        SELECT stage, jsonb_array_elements_text(keys) FROM stage WHERE run_id = :run_id))"""

_RECENT_MINUTES = 10
# Units that run or ended recently: their rate is not distorted by work of an earlier day.
_RECENT = f"(state = 'running' OR finished_at > now() - make_interval(mins => {_RECENT_MINUTES}))"

_OWN = "run_id = :run_id AND state = 'done'"  # units that the run computed itself: others it found done

# Every stage that the run has started, with the tally, the times and the recent work of its units.
STAGES = f"""
    WITH mine AS ({_OF_RUN})
    SELECT s.stage, s.version, s.scope, s.units, t.*
    FROM stage s LEFT JOIN (
        SELECT stage AS of, {TALLY}, min(started_at) AS first, max(finished_at) AS last,
            CAST(coalesce(sum(samples), 0) AS bigint) AS done_samples,
            count(*) FILTER (WHERE {_RECENT} AND state = 'done') AS recent_done,
            CAST(coalesce(sum(coalesce(samples, progress)) FILTER (WHERE {_RECENT}), 0)
                AS bigint) AS recent_samples,
            CAST(extract(epoch FROM now() - min(started_at) FILTER (WHERE {_RECENT}))
                AS float) AS recent_seconds,
            CAST(coalesce(sum(samples) FILTER (WHERE {_OWN}), 0) AS bigint) AS own_samples,
            CAST(extract(epoch FROM max(finished_at) FILTER (WHERE {_OWN})
                - min(started_at) FILTER (WHERE {_OWN})) AS float) AS own_seconds
        FROM mine GROUP BY stage
    ) AS t ON t.of = s.stage
    WHERE s.run_id = :run_id ORDER BY s.stage
"""

# The wall time of each stage's units that the run itself has computed in the last `within` seconds.
COMPUTED = f"""
    SELECT stage, CAST(extract(epoch FROM max(finished_at) - min(started_at)) AS float) AS seconds
    FROM ({_OF_RUN}) AS mine
    WHERE run_id = :run_id AND finished_at IS NOT NULL
        AND started_at >= now() - make_interval(secs => :within)
    GROUP BY stage
"""


def _units(condition: str, order: str) -> str:
    """The first `limit` units of the run that meet the condition, with the input shard of each."""
    return f"""
        WITH top AS (
            SELECT *, CAST(extract(epoch FROM
                coalesce(finished_at, now()) - started_at) AS float) AS seconds
            FROM ({_OF_RUN}) AS mine WHERE {condition} ORDER BY {order}, id LIMIT CAST(:limit AS bigint)
        )
        SELECT stage, scope, key, state, attempts, coalesce(samples, progress) AS samples,
            host, started_at, finished_at, seconds, error, traceback,
            (SELECT min(id) FROM shard WHERE run_id = :run_id AND fingerprint = top.key) AS shard
        FROM top ORDER BY {order}, id
    """


# The failed units, the latest first.
FAILURES = _units("state = 'failed'", "finished_at DESC")

# The done and running units whose last attempt took longest.
SLOWEST = _units("state IN ('done', 'running')", "seconds DESC")

# Forget the stages of a run that another version of made recorded; their units stay.
FORGET_OUTDATED = """
    DELETE FROM stage WHERE run_id = :run_id AND NOT EXISTS (
        SELECT FROM json_to_recordset(CAST(:known AS json)) AS known (stage text, version integer)
        WHERE known.stage = stage.stage AND known.version = stage.version)
    RETURNING stage
"""
