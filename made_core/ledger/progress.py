"""A run's stages as people ask for them: where each stands, what failed, what is slow."""

from __future__ import annotations

from made_core.ledger.database import Database
from made_core.ledger.records import StageStatus, UnitStatus
from made_core.ledger.units import TALLY
from made_core.types import Stage

# The units of a run: of embed, which runs share, those of its own shards.
OF_RUN = """
    SELECT s.run_id, u.*, s.units FROM stage s
    JOIN unit u ON u.stage = s.stage AND u.scope = s.scope
    WHERE s.run_id = :run_id AND (s.stage <> 'embed' OR
        u.key IN (SELECT fingerprint FROM shard WHERE run_id = :run_id))"""

RECENT_MINUTES = 10
# Its units that run, or ended not long ago: a rate of these is not blurred by an earlier day's work.
RECENT = f"(state = 'running' OR finished_at > now() - make_interval(mins => {RECENT_MINUTES}))"


class Stages:
    """Questions about a run's stages."""

    def __init__(self, database: Database) -> None:
        self._all = database.all

    def of(self, run_id: str) -> list[StageStatus]:
        """Where each stage that the run has begun stands, in the order of the stages."""
        rows = self._all(
            f"""
            WITH mine AS ({OF_RUN})
            SELECT s.stage, s.scope, s.units, t.*
            FROM stage s LEFT JOIN (
                SELECT stage AS of, {TALLY}, min(started_at) AS first, max(finished_at) AS last,
                    CAST(coalesce(sum(samples), 0) AS bigint) AS done_samples,
                    count(*) FILTER (WHERE {RECENT} AND state = 'done') AS recent_done,
                    CAST(coalesce(sum(coalesce(samples, progress)) FILTER (WHERE {RECENT}), 0)
                        AS bigint) AS recent_samples,
                    CAST(extract(epoch FROM now() - min(started_at) FILTER (WHERE {RECENT}))
                        AS float) AS recent_seconds
                FROM mine GROUP BY stage
            ) AS t ON t.of = s.stage
            WHERE s.run_id = :run_id
            """,
            {"run_id": run_id},
        )
        order = list(Stage)
        return sorted(map(StageStatus.of, rows), key=lambda status: order.index(status.stage))

    def failures(self, run_id: str, limit: int | None) -> list[UnitStatus]:
        """The run's failed units, the latest first; `limit` None: all of them."""
        return self._units("state = 'failed'", "finished_at DESC", run_id, limit)

    def slowest(self, run_id: str, limit: int) -> list[UnitStatus]:
        """The run's done and running units whose last attempt took longest."""
        return self._units("state IN ('done', 'running')", "seconds DESC", run_id, limit)

    def _units(self, which: str, order: str, run_id: str, limit: int | None) -> list[UnitStatus]:
        rows = self._all(
            f"""
            WITH top AS (
                SELECT *, CAST(extract(epoch FROM
                    coalesce(finished_at, now()) - started_at) AS float) AS seconds
                FROM ({OF_RUN}) AS mine WHERE {which} ORDER BY {order}, id LIMIT CAST(:limit AS bigint)
            )
            SELECT stage, scope, key, state, attempts, coalesce(samples, progress) AS samples,
                host, started_at, finished_at, seconds, error, traceback,
                (SELECT min(id) FROM shard WHERE run_id = top.run_id AND stage = 'embed'
                    AND fingerprint = top.key) AS shard
            FROM top ORDER BY {order}, id
            """,
            {"run_id": run_id, "limit": limit},
        )
        return [UnitStatus.of(row) for row in rows]
