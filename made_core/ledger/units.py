"""Units of work in the ledger: who does which, and what came of it. One statement per transition."""

from __future__ import annotations

import json
import logging
import traceback
import uuid
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from made_core.errors import LeaseLost, Permanent
from made_core.ledger.database import LEASE, Database, clean
from made_core.ledger.records import Event, Result, Tally
from made_core.types import FileRef, Stage, Unit, UnitState

log = logging.getLogger(__name__)

LOST = "the worker was lost"

# Fragments of the statements below.
# Keys travel as JSON: 100,000 of them pass in a tenth of the time of an array parameter, and the
# plan is by the index however many there are and whatever the statistics say.
KEYS = "SELECT json_array_elements_text(CAST(:keys AS json))"
HERE = f"stage = :stage AND scope = :scope AND key = ANY(ARRAY({KEYS}))"
HERE_OR_ALL = f"stage = :stage AND scope = :scope AND (CAST(:keys AS text) IS NULL OR {HERE})"
READY_AT = "CASE state WHEN 'open' THEN not_before ELSE lease_until END"
TALLY = (
    ", ".join(f"count(*) FILTER (WHERE state = '{s.value}') AS {s.value}" for s in UnitState)
    + ", CAST(coalesce(sum(coalesce(samples, progress)), 0) AS bigint) AS samples"
)


class Units:
    """Transitions and questions of units."""

    def __init__(self, database: Database) -> None:
        self._all, self._one = database.all, database.one

    def put(self, run_id: str, stage: Stage, scope: str, keys: Sequence[str], max_attempts: int) -> None:
        """Say that the run's `stage` is these units, and create those that are not there yet."""
        values = _here(stage, scope, keys)
        values |= {"run_id": run_id, "max": max_attempts, "units": len(set(keys))}
        self._all(
            f"""
            WITH said AS (
                INSERT INTO stage (run_id, stage, scope, units)
                VALUES (:run_id, :stage, :scope, :units)
                ON CONFLICT (run_id, stage) DO UPDATE
                SET scope = excluded.scope, units = excluded.units
            )
            INSERT INTO unit (stage, scope, key, max_attempts)
            SELECT :stage, :scope, key, :max
            FROM (SELECT DISTINCT key FROM ({KEYS}) AS listed (key)) AS given
            ORDER BY key  -- in one order, so that two runs do not lock each other out
            ON CONFLICT (stage, scope, key) DO NOTHING
            """,
            values,
        )

    def claim(
        self,
        stage: Stage,
        scope: str,
        keys: Sequence[str],
        limit: int,
        lease_seconds: float,
        host: str,
    ) -> list[Unit]:
        """Take up to `limit` of the units `keys` that are open and due, or whose lease ran out.

        A unit whose lease ran out in its last attempt is set aside as failed, not taken.
        """
        token = uuid.uuid4().hex
        values = _here(stage, scope, keys)
        values |= {"limit": limit, "lease": lease_seconds, "host": host, "token": token}
        rows = self._all(
            f"""
            WITH held AS MATERIALIZED (  -- taken by this very call, and the answer was lost
                SELECT id, key, attempts FROM unit
                WHERE {HERE} AND state = 'running' AND token = :token
            ), due AS MATERIALIZED (
                SELECT id, state, host, attempts, attempts >= max_attempts AS last FROM unit
                WHERE {HERE} AND state IN ('open', 'running') AND {READY_AT} <= now()
                    AND NOT EXISTS (SELECT FROM held)
                ORDER BY key LIMIT :limit FOR UPDATE SKIP LOCKED
            ), failed AS (
                UPDATE unit SET state = 'failed', error = '{LOST}', traceback = NULL,
                    token = NULL, lease_until = NULL, progress = 0, finished_at = now()
                FROM due WHERE unit.id = due.id AND last
                RETURNING unit.id, unit.host, unit.attempts
            ), taken AS (
                UPDATE unit SET state = 'running', attempts = unit.attempts + 1, token = :token,
                    lease_until = {LEASE}, host = :host, started_at = now(), progress = 0
                FROM due WHERE unit.id = due.id AND NOT last
                RETURNING unit.id, unit.key, unit.host, unit.attempts
            ), told AS (
                INSERT INTO event (unit_id, host, attempt, kind, error, token)
                SELECT id, host, attempts, 'lost', NULL, NULL FROM due WHERE state = 'running' UNION ALL
                SELECT id, host, attempts, 'failed', '{LOST}', NULL FROM failed UNION ALL
                SELECT id, host, attempts, 'claimed', NULL, :token FROM taken
            )
            SELECT id, key, attempts FROM taken UNION ALL SELECT * FROM held ORDER BY key
            """,
            values,
        )
        return [Unit(row.id, stage, scope, row.key, row.attempts, token) for row in rows]

    def renew(self, units: Sequence[Unit], lease_seconds: float, progress: Sequence[int]) -> set[int]:
        """Hold the units for `lease_seconds` from now and note the samples done in each so far.

        Returns:
            The ids of those that are still held.
        """
        rows = self._all(
            f"""
            UPDATE unit SET lease_until = {LEASE}, progress = given.progress
            FROM unnest(CAST(:ids AS bigint[]), CAST(:tokens AS text[]), CAST(:done AS bigint[]))
                AS given (id, token, progress)
            WHERE unit.id = given.id AND unit.token = given.token RETURNING unit.id
            """,
            {
                "ids": [unit.id for unit in units],
                "tokens": [unit.token for unit in units],
                "done": list(progress),
                "lease": lease_seconds,
            },
        )
        return {row.id for row in rows}

    def finish(self, unit: Unit, files: Sequence[FileRef], samples: int, counts: dict[str, Any]) -> None:
        """Commit the unit: from now on its result is `files`.

        Raises:
            LeaseLost: the unit was given to another worker.
        """
        values = {
            "id": unit.id, "token": unit.token, "attempt": unit.attempt, "samples": samples,
            "counts": json.dumps(counts), "files": json.dumps([asdict(file) for file in files]),
        }  # fmt: skip
        rows = self._all(
            """
            WITH done AS (
                UPDATE unit SET state = 'done', token = NULL, lease_until = NULL,
                    finished_at = now(), progress = :samples, samples = :samples,
                    counts = CAST(:counts AS jsonb), files = CAST(:files AS jsonb),
                    error = NULL, traceback = NULL
                WHERE id = :id AND token = :token RETURNING id, host, attempts
            ), told AS (
                INSERT INTO event (unit_id, host, attempt, kind)
                SELECT id, host, attempts, 'done' FROM done
            )
            SELECT id FROM done UNION ALL
            SELECT id FROM unit  -- so said before, and the answer was lost
            WHERE id = :id AND state = 'done' AND attempts = :attempt
                AND files = CAST(:files AS jsonb)
            """,
            values,
        )
        if not rows:
            raise LeaseLost(f"{unit.stage.value} {unit.key}, attempt {unit.attempt}")

    def fail(self, unit: Unit, error: BaseException, backoff_seconds: float) -> UnitState:
        """Give the unit back: to be tried again after `backoff_seconds`, or set aside.

        It is set aside where `error` is Permanent or its attempts are used up. Where another
        worker holds it by now, nothing happens.

        Returns:
            The unit's state.
        """
        trace = "".join(traceback.format_exception(type(error), error, error.__traceback__))
        values = {
            "id": unit.id, "token": unit.token, "permanent": isinstance(error, Permanent),
            "backoff": backoff_seconds, "trace": clean(trace),
            "error": clean(" ".join(str(error).split()) or type(error).__name__),
        }  # fmt: skip
        row = self._one(
            """
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
            ), told AS (
                INSERT INTO event (unit_id, host, attempt, kind, error, traceback)
                SELECT id, host, attempts,
                    CASE state WHEN 'failed' THEN 'failed' ELSE 'retry' END, :error, :trace
                FROM ended
            )
            SELECT coalesce(ended.state, unit.state) AS state, ended.id IS NULL AS lost
            FROM unit LEFT JOIN ended ON true WHERE unit.id = :id
            """,
            values,
        )
        if row.lost:
            log.warning("%s %s is no longer ours: its failure is dropped (%s)",
                        unit.stage.value, unit.key, values["error"])  # fmt: skip
        return UnitState(row.state)

    def reopen(self, stage: Stage, scope: str, keys: Sequence[str]) -> int:
        """Failed units to be tried again, with all their attempts; returns how many."""
        return self._open_again("failed", None, _here(stage, scope, keys))

    def forget(self, stage: Stage, scope: str, keys: Sequence[str]) -> int:
        """Done units to be done again, as their files are no longer whole; returns how many."""
        return self._open_again("done", "its files were not whole", _here(stage, scope, keys))

    def _open_again(self, state: str, why: str | None, here: dict[str, Any]) -> int:
        rows = self._all(
            f"""
            WITH due AS MATERIALIZED (
                SELECT id, host, attempts FROM unit WHERE {HERE} AND state = :state
                ORDER BY key FOR UPDATE
            ), opened AS (
                UPDATE unit SET state = 'open', attempts = 0, not_before = now(),
                    started_at = NULL, finished_at = NULL, progress = 0, samples = NULL,
                    counts = NULL, files = NULL, error = NULL, traceback = NULL
                FROM due WHERE unit.id = due.id
            )
            INSERT INTO event (unit_id, host, attempt, kind, error)
            SELECT id, host, attempts, 'reopened', CAST(:why AS text) FROM due RETURNING id
            """,
            here | {"state": state, "why": why},
        )
        return len(rows)

    def pending(self, stage: Stage, scope: str, keys: Sequence[str] | None) -> tuple[list[str], float | None]:
        """The keys that can be claimed now, and the seconds until one can.

        `keys` None: all of the scope. The seconds are 0 where one can be claimed now, the time to
        the first end of a lease or of a backoff where none can, and None where none is left.
        """
        rows = self._all(
            f"""SELECT key, CAST(extract(epoch FROM {READY_AT} - now()) AS float) AS seconds
            FROM unit WHERE {HERE_OR_ALL} AND state IN ('open', 'running') ORDER BY key""",
            _here(stage, scope, keys),
        )
        wait = min((max(0.0, row.seconds) for row in rows), default=None)
        return [row.key for row in rows if row.seconds <= 0], wait

    def results(self, stage: Stage, scope: str, keys: Sequence[str] | None) -> dict[str, Result]:
        """What is known of each of the units (None: all of the scope), by key."""
        rows = self._all(
            f"""SELECT key, state, files, samples, counts, error, attempts,
                CAST(extract(epoch FROM finished_at - started_at) AS float) AS seconds
            FROM unit WHERE {HERE_OR_ALL} ORDER BY key""",
            _here(stage, scope, keys),
        )
        return {row.key: Result.of(row) for row in rows}

    def tally(self, stage: Stage, scope: str, keys: Sequence[str] | None) -> Tally:
        """How far the units are (None: all of the scope)."""
        sql = f"SELECT {TALLY} FROM unit WHERE {HERE_OR_ALL}"
        return Tally.of(self._one(sql, _here(stage, scope, keys)))

    def names(self, stage: Stage, scope: str, keys: Sequence[str]) -> set[str]:
        """The names (`Unit.name`) of all attempts that were ever made at the units."""
        rows = self._all(
            f"""SELECT unit.id, key, attempt, event.token FROM event JOIN unit ON unit.id = unit_id
            WHERE {HERE} AND event.token IS NOT NULL""",
            _here(stage, scope, keys),
        )
        return {Unit(row.id, stage, scope, row.key, row.attempt, row.token).name for row in rows}

    def events(self, stage: Stage, scope: str, key: str) -> list[Event]:
        """What happened to a unit, the oldest first."""
        rows = self._all(
            f"""SELECT at, event.host, attempt, kind, event.error, event.traceback
            FROM event JOIN unit ON unit.id = unit_id WHERE {HERE} ORDER BY event.id""",
            _here(stage, scope, [key]),
        )
        return [Event.of(row) for row in rows]


def _here(stage: Stage, scope: str, keys: Sequence[str] | None) -> dict[str, Any]:
    listed = None if keys is None else json.dumps(list(keys))
    return {"stage": stage.value, "scope": scope, "keys": listed}
