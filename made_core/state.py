"""The ledger: who does which unit of work, and what is done. One SQL statement per transition.

Files come first, the row second: a unit is done when its row says so. All times are the database's.
"""

from __future__ import annotations

import json
import logging
import traceback
import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Row

from made_core.data import FileRef, RunState, Shard, Stage, Unit, UnitState
from made_core.errors import LeaseLost, OutputError, Permanent
from made_core.tables import Database

log = logging.getLogger(__name__)

LOST = "the worker was lost"
TEXT_LIMIT = 20_000  # characters kept of an error or a traceback

# Fragments of the statements below.
# Keys travel as JSON: 100,000 of them pass in a tenth of the time of an array parameter, and the
# plan is by the index however many there are and whatever the statistics say.
KEYS = "SELECT json_array_elements_text(CAST(:keys AS json))"
HERE = f"stage = :stage AND scope = :scope AND key = ANY(ARRAY({KEYS}))"
HERE_OR_ALL = f"stage = :stage AND scope = :scope AND (CAST(:keys AS text) IS NULL OR {HERE})"
READY_AT = "CASE state WHEN 'open' THEN not_before ELSE lease_until END"
LEASE = "now() + make_interval(secs => :lease)"
TALLY = (
    ", ".join(f"count(*) FILTER (WHERE state = '{s.value}') AS {s.value}" for s in UnitState)
    + ", CAST(coalesce(sum(coalesce(samples, progress)), 0) AS bigint) AS samples"
)
# The units of a run: of embed, which runs share, those of its own shards.
OF_RUN = """
    SELECT s.run_id, u.*, s.units FROM stage s
    JOIN unit u ON u.stage = s.stage AND u.scope = s.scope
    WHERE s.run_id = :run_id AND (s.stage <> 'embed' OR
        u.key IN (SELECT fingerprint FROM shard WHERE run_id = :run_id))"""


@dataclass(frozen=True)
class Result:
    """What the ledger knows of a unit."""

    key: str
    state: UnitState
    files: tuple[FileRef, ...]  # of a done one
    samples: int  # of a done one, else 0
    counts: dict[str, Any]
    error: str | None  # of the last attempt, where it failed
    attempts: int
    seconds: float | None  # of the attempt that ended it


@dataclass(frozen=True)
class Tally:
    """Units by state, every state present, and samples."""

    units: dict[UnitState, int]
    samples: int  # of done units, and what the running ones report

    @property
    def total(self) -> int:
        """Units of all states."""
        return sum(self.units.values())


@dataclass(frozen=True)
class Run:
    """A run as recorded."""

    id: str
    identity: str  # digest of what decides the output
    recipe: dict[str, Any]
    output: str
    store: str
    state: RunState
    holder: str | None  # the process that drives it, or did
    lease_until: datetime | None
    held: bool  # the lease has not run out
    replaced: bool  # its output belongs to a later run
    created_at: datetime
    updated_at: datetime
    summary: dict[str, Any] | None
    error: str | None


@dataclass(frozen=True)
class StageStatus:
    """Where a stage of a run stands."""

    stage: Stage
    scope: str
    planned: int  # units that the run asked for
    tally: Tally
    started_at: datetime | None  # first start of a unit's last attempt
    finished_at: datetime | None  # last finish


@dataclass(frozen=True)
class UnitStatus:
    """A unit as shown to people."""

    stage: Stage
    scope: str
    key: str
    shard: str | None  # id of the input shard, for embed
    state: UnitState
    attempts: int
    samples: int
    host: str | None
    started_at: datetime | None
    finished_at: datetime | None
    seconds: float | None  # of the last attempt, so far where it runs
    error: str | None
    traceback: str | None


@dataclass(frozen=True)
class Event:
    """Something that happened to a unit."""

    at: datetime
    host: str | None
    attempt: int
    kind: str  # claimed, lost, done, retry, failed, reopened
    error: str | None
    traceback: str | None


class Ledger:
    """Transitions and questions. It holds no connection between calls; threads may share it.

    Every call may raise StorageFailed, when the database did not answer for `patience` seconds.
    """

    def __init__(self, url: str, patience: float = 300) -> None:
        """Args: url: `postgresql://` or `postgresql+psycopg://`; patience: seconds.

        Raises:
            DatabaseError: no such URL.
        """
        self._database = Database(url, patience)
        self._all, self._one = self._database.all, self._database.one

    @classmethod
    def open(cls, url: str, patience: float = 300) -> Ledger:
        """A ledger whose database answered and has its tables, created where there were none.

        Raises:
            DatabaseError: unreachable (tried once), or of another version.
        """
        ledger = cls(url, patience)
        ledger._database.prepare()
        return ledger

    def close(self) -> None:
        """Let go of the engine."""
        self._database.close()

    # --- runs -----------------------------------------------------------------------------------

    def begin_run(
        self,
        run_id: str,
        identity: str,
        recipe: dict[str, Any],
        output: str,
        store: str,
        holder: str,
        lease_seconds: float,
        replace: bool,
    ) -> str:
        """Take `output` for a run, or resume the run of the same identity that has it.

        Returns:
            The id of the run: `run_id`, or that of the resumed one.

        Raises:
            OutputError: another process drives its run now, or it belongs to a run of another
                identity and `replace` is false.
        """
        values = {
            "run_id": run_id, "identity": identity, "recipe": json.dumps(recipe), "output": output,
            "store": store, "holder": holder, "lease": lease_seconds, "replace": replace,
        }  # fmt: skip
        while True:
            row = self._one(
                f"""
                WITH live AS MATERIALIZED (
                    SELECT *, identity = :identity AS same,
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
                        AND CAST(:replace AS boolean) RETURNING run.id
                ), begun AS (
                    INSERT INTO run
                        (id, identity, recipe, output, store, state, holder, lease_until)
                    SELECT :run_id, :identity, CAST(:recipe AS jsonb), :output, :store,
                        'running', :holder, {LEASE}
                    WHERE NOT EXISTS (SELECT FROM live) OR EXISTS (SELECT FROM ended)
                    ON CONFLICT (output) WHERE NOT replaced DO NOTHING RETURNING id
                )
                SELECT coalesce((SELECT id FROM resumed), (SELECT id FROM begun)) AS id,
                    live.id AS owner, live.held, live.holder, live.lease_until, live.created_at
                FROM (SELECT) AS one LEFT JOIN live ON true
                """,
                values,
            )
            if row.id is not None:
                return str(row.id)
            if row.held:
                raise OutputError(
                    f"{output} is being written by run {row.owner}, held by {row.holder} "
                    f"until {row.lease_until:%Y-%m-%d %H:%M:%S %Z} unless renewed"
                )
            if row.owner is not None:
                raise OutputError(
                    f"{output} belongs to run {row.owner} of another recipe since "
                    f"{row.created_at:%Y-%m-%d %H:%M:%S %Z}; --replace takes it over"
                )
            # Neither: another process took the output between our look and our insert. Look again.

    def renew_run(self, run_id: str, holder: str, lease_seconds: float) -> bool:
        """Hold the run for `lease_seconds` from now; False where `holder` no longer has it."""
        values = {"run_id": run_id, "holder": holder, "lease": lease_seconds}
        return bool(
            self._all(
                f"""UPDATE run SET lease_until = {LEASE}, updated_at = now()
                WHERE id = :run_id AND holder = :holder RETURNING id""",
                values,
            )
        )

    def end_run(
        self,
        run_id: str,
        holder: str,
        state: RunState,
        summary: dict[str, Any] | None,
        error: str | None,
    ) -> None:
        """Record how the run ended and let go of it.

        Raises:
            LeaseLost: `holder` no longer has the run.
        """
        values = {
            "run_id": run_id, "holder": holder, "state": state.value, "error": _clean(error),
            "summary": None if summary is None else json.dumps(summary),
        }  # fmt: skip
        rows = self._all(
            """
            WITH ended AS (
                UPDATE run SET state = :state, summary = CAST(:summary AS jsonb), error = :error,
                    holder = NULL, lease_until = NULL, updated_at = now()
                WHERE id = :run_id AND holder = :holder RETURNING id
            )
            SELECT id FROM ended UNION ALL
            SELECT id FROM run  -- so said before, and the answer was lost
            WHERE id = :run_id AND holder IS NULL AND NOT replaced AND state = :state
                AND summary IS NOT DISTINCT FROM CAST(:summary AS jsonb)
            """,
            values,
        )
        if not rows:
            raise LeaseLost(f"run {run_id} is no longer held by {holder}")

    def put_shards(self, run_id: str, shards: Sequence[Shard]) -> None:
        """Make `shards` the run's input, in place of what it was."""
        self._all(
            """
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
            """,
            {"run_id": run_id, "shards": json.dumps([vars(shard) for shard in shards])},
        )

    # --- units ----------------------------------------------------------------------------------

    def put_units(
        self, run_id: str, stage: Stage, scope: str, keys: Sequence[str], max_attempts: int
    ) -> None:
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
                INSERT INTO event (unit_id, host, attempt, kind, error)
                SELECT id, host, attempts, 'lost', NULL FROM due WHERE state = 'running' UNION ALL
                SELECT id, host, attempts, 'failed', '{LOST}' FROM failed UNION ALL
                SELECT id, host, attempts, 'claimed', NULL FROM taken
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
            "backoff": backoff_seconds, "trace": _clean(trace),
            "error": _clean(" ".join(str(error).split()) or type(error).__name__),
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

    # --- questions ------------------------------------------------------------------------------

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
        return {
            row.key: Result(
                key=row.key,
                state=UnitState(row.state),
                files=tuple(FileRef(**file) for file in row.files or ()),
                samples=row.samples or 0,
                counts=row.counts or {},
                error=row.error,
                attempts=row.attempts,
                seconds=row.seconds,
            )
            for row in rows
        }

    def tally(self, stage: Stage, scope: str, keys: Sequence[str] | None) -> Tally:
        """How far the units are (None: all of the scope)."""
        sql = f"SELECT {TALLY} FROM unit WHERE {HERE_OR_ALL}"
        return _tally(self._one(sql, _here(stage, scope, keys)))

    def runs(self) -> list[Run]:
        """All runs, the newest first."""
        return self._runs("ORDER BY created_at DESC, id", {})

    def run(self, run_id: str) -> Run | None:
        """The run of that id."""
        return next(iter(self._runs("WHERE id = :run_id", {"run_id": run_id})), None)

    def run_by_output(self, output: str) -> Run | None:
        """The run to which the output belongs."""
        rows = self._runs("WHERE output = :output AND NOT replaced", {"output": output})
        return next(iter(rows), None)

    def _runs(self, clause: str, values: dict[str, Any]) -> list[Run]:
        sql = f"SELECT *, coalesce(lease_until > now(), false) AS held FROM run {clause}"
        rows = (row._asdict() for row in self._all(sql, values))
        return [Run(**{**row, "state": RunState(row["state"])}) for row in rows]

    def stages(self, run_id: str) -> list[StageStatus]:
        """Where each stage that the run has begun stands, in the order of the stages."""
        rows = self._all(
            f"""
            WITH mine AS ({OF_RUN})
            SELECT s.stage, s.scope, s.units, t.*
            FROM stage s LEFT JOIN (
                SELECT stage AS of, {TALLY}, min(started_at) AS first, max(finished_at) AS last
                FROM mine GROUP BY stage
            ) AS t ON t.of = s.stage
            WHERE s.run_id = :run_id
            """,
            {"run_id": run_id},
        )
        order = list(Stage)
        stages = [
            StageStatus(Stage(row.stage), row.scope, row.units, _tally(row), row.first, row.last)
            for row in rows
        ]
        return sorted(stages, key=lambda status: order.index(status.stage))

    def failures(self, run_id: str, limit: int) -> list[UnitStatus]:
        """The run's failed units, the latest first."""
        return self._units("state = 'failed'", "finished_at DESC", run_id, limit)

    def slowest(self, run_id: str, limit: int) -> list[UnitStatus]:
        """The run's done and running units whose last attempt took longest."""
        return self._units("state IN ('done', 'running')", "seconds DESC", run_id, limit)

    def _units(self, which: str, order: str, run_id: str, limit: int) -> list[UnitStatus]:
        rows = self._all(
            f"""
            WITH top AS (
                SELECT *, CAST(extract(epoch FROM
                    coalesce(finished_at, now()) - started_at) AS float) AS seconds
                FROM ({OF_RUN}) AS mine WHERE {which} ORDER BY {order}, id LIMIT :limit
            )
            SELECT stage, scope, key, state, attempts, coalesce(samples, progress) AS samples,
                host, started_at, finished_at, seconds, error, traceback,
                (SELECT min(id) FROM shard WHERE run_id = top.run_id AND stage = 'embed'
                    AND fingerprint = top.key) AS shard
            FROM top ORDER BY {order}, id
            """,
            {"run_id": run_id, "limit": limit},
        )
        known = (row._asdict() for row in rows)
        return [
            UnitStatus(
                **{**row, "stage": Stage(row["stage"]), "state": UnitState(row["state"])},
            )
            for row in known
        ]

    def events(self, stage: Stage, scope: str, key: str) -> list[Event]:
        """What happened to a unit, the oldest first."""
        rows = self._all(
            f"""SELECT at, event.host, attempt, kind, event.error, event.traceback
            FROM event JOIN unit ON unit.id = unit_id WHERE {HERE} ORDER BY event.id""",
            _here(stage, scope, [key]),
        )
        return [Event(**row._asdict()) for row in rows]


def _clean(said: str | None) -> str | None:
    """Text that PostgreSQL can hold: no NUL, no lone surrogates, not endless."""
    if said is None:
        return None
    if len(said) > TEXT_LIMIT:
        said = f"{said[: TEXT_LIMIT // 2]} [...] {said[-TEXT_LIMIT // 2 :]}"
    return said.replace("\0", "\\x00").encode("utf-8", "backslashreplace").decode("utf-8")


def _here(stage: Stage, scope: str, keys: Sequence[str] | None) -> dict[str, Any]:
    listed = None if keys is None else json.dumps(list(keys))
    return {"stage": stage.value, "scope": scope, "keys": listed}


def _tally(row: Row[Any]) -> Tally:
    units = {state: getattr(row, state.value) or 0 for state in UnitState}
    return Tally(units, int(row.samples or 0))
