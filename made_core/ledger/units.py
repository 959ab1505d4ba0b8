"""Units of work in the ledger: their state, lease and output. One SQL statement per transition."""

from __future__ import annotations

import json
import logging
import traceback
import uuid
from collections.abc import Sequence
from typing import Any

from made_core.errors import LeaseLost, OutdatedRun, Permanent
from made_core.ledger.database import Database, clean
from made_core.ledger.records import REMEDY, Event, Result, Tally
from made_core.ledger.statements import units as sql
from made_core.stages import OutputT, Stage, UnitOutput
from made_core.types import Unit, UnitState

log = logging.getLogger(__name__)


class Units:
    """Transitions and queries of units."""

    def __init__(self, database: Database) -> None:
        self._all, self._one = database.all, database.one

    def put(self, run_id: str, stage: Stage[Any], scope: str, keys: Sequence[str], max_attempts: int) -> None:
        """Record that the run's `stage` consists of these units, and create those that do not exist yet."""
        distinct = sorted(set(keys))
        values = _values(stage, scope, distinct)
        values |= {"run_id": run_id, "version": stage.version, "max": max_attempts, "units": len(distinct)}
        self._all(sql.PUT, values)

    def claim(
        self,
        stage: Stage[Any],
        scope: str,
        keys: Sequence[str],
        limit: int,
        lease_seconds: float,
        host: str,
        run: str | None = None,
    ) -> list[Unit]:
        """Take up to `limit` of the units `keys` that are open and due, or whose lease expired.

        A unit whose lease expired in its last attempt fails and is not taken. None are taken for a `run`
        that has ended.
        """
        token = uuid.uuid4().hex
        values = _values(stage, scope, keys)
        values |= {"limit": limit, "lease": lease_seconds, "host": host, "token": token, "run": run}
        rows = self._all(sql.CLAIM, values)
        return [Unit(row.id, stage.name, scope, row.key, row.attempts, token) for row in rows]

    def renew(self, units: Sequence[Unit], lease_seconds: float, progress: Sequence[int]) -> set[int]:
        """Hold the units for `lease_seconds` from now and record the samples done in each so far.

        Returns:
            The ids of the units that are still held.
        """
        values = {
            "ids": [unit.id for unit in units], "tokens": [unit.token for unit in units],
            "done": list(progress), "lease": lease_seconds,
        }  # fmt: skip
        return {row.id for row in self._all(sql.RENEW, values)}

    def finish(self, unit: Unit, output: UnitOutput) -> None:
        """Commit the unit with its `output`.

        Raises:
            LeaseLost: the unit was given to another worker.
        """
        row = output.to_row()
        values = {
            "id": unit.id, "token": unit.token, "attempt": unit.attempt, "samples": row.samples,
            "counts": json.dumps(row.counts), "files": json.dumps(row.files),
        }  # fmt: skip
        if not self._all(sql.FINISH, values):
            raise LeaseLost(f"{unit.stage} {unit.key}, attempt {unit.attempt}")

    def fail(self, unit: Unit, error: BaseException, backoff_seconds: float) -> UnitState:
        """Release the unit after an error: it is retried after `backoff_seconds`, or it has failed.

        It has failed if `error` is Permanent or no attempts are left. Does nothing if another worker
        holds the unit by now.

        Returns:
            The unit's state.
        """
        trace = "".join(traceback.format_exception(type(error), error, error.__traceback__))
        values = {
            "id": unit.id, "token": unit.token, "permanent": isinstance(error, Permanent),
            "backoff": backoff_seconds, "trace": clean(trace),
            "error": clean(" ".join(str(error).split()) or type(error).__name__),
        }  # fmt: skip
        row = self._one(sql.FAIL, values)
        if row.lost:
            log.warning("%s %s: this attempt no longer holds it, its error is ignored (%s)",
                        unit.stage, unit.key, values["error"])  # fmt: skip
        return UnitState(row.state)

    def release(self, run: str) -> int:
        """Give back the units that workers of `run` hold, because they were stopped; returns how many.

        A worker that is still alive loses its unit.
        """
        return len(self._all(sql.RELEASE, {"run": run}))

    def reopen(self, stage: Stage[Any], scope: str, keys: Sequence[str]) -> int:
        """Reopen those of the units that failed, with all attempts; returns how many."""
        values = _values(stage, scope, keys) | {"state": "failed", "why": None}
        return len(self._all(sql.OPEN_AGAIN, values))

    def allow(self, stage: Stage[Any], scope: str, keys: Sequence[str], attempts: int) -> int:
        """Reopen those of the units that failed because they had used all attempts; returns how many.

        They, and the units that are open or running, then have at least `attempts`. A unit that failed in an
        earlier attempt did so with a Permanent error: it stays failed until `reopen`.
        """
        return len(self._all(sql.ALLOW, _values(stage, scope, keys) | {"max": attempts}))

    def forget(self, stage: Stage[Any], scope: str, keys: Sequence[str]) -> int:
        """Reopen those of the units that are done, because files are missing or damaged; returns how many."""
        values = _values(stage, scope, keys) | {"state": "done", "why": "files missing or damaged"}
        return len(self._all(sql.OPEN_AGAIN, values))

    def pending(
        self, stage: Stage[Any], scope: str, keys: Sequence[str] | None
    ) -> tuple[list[str], float | None]:
        """The keys of units that can be claimed now, and the seconds until one can be claimed.

        The seconds are 0 if a unit can be claimed now, else the time until the first lease or backoff
        ends, and None if all units are done or failed. `keys` None: all units of the scope.
        """
        rows = self._all(sql.PENDING, _values(stage, scope, keys))
        wait = min((max(0.0, row.seconds) for row in rows), default=None)
        return [row.key for row in rows if row.seconds <= 0], wait

    def results(
        self, stage: Stage[OutputT], scope: str, keys: Sequence[str] | None
    ) -> dict[str, Result[OutputT]]:
        """The state and result of each unit, by key. `keys` None: all units of the scope.

        Raises:
            OutdatedRun: another version of made wrote one of the outputs.
        """
        rows = self._all(sql.RESULTS, _values(stage, scope, keys))
        return {row.key: Result.of(stage, scope, row) for row in rows}

    def of_run(self, run_id: str, stage: Stage[OutputT]) -> dict[str, Result[OutputT]]:
        """The results of the run's units of a stage, by key; empty if it has not started the stage.

        Raises:
            OutdatedRun: the run used another version of the stage.
        """
        rows = self._all(sql.OF_RUN, {"run_id": run_id, "stage": stage.name})
        if not rows:
            return {}
        [row] = rows
        if row.version != stage.version:
            raise OutdatedRun(
                f"run {run_id}, stage {stage.name}: recorded with version {row.version} of the stage, "
                f"this program has version {stage.version}; {REMEDY}"
            )
        return self.results(stage, row.scope, row.keys)

    def tally(self, stage: Stage[Any], scope: str, keys: Sequence[str] | None) -> Tally:
        """The number of units by state. `keys` None: all units of the scope."""
        return Tally.of(self._one(sql.COUNT, _values(stage, scope, keys)))

    def done(self, scopes: Sequence[str]) -> dict[str, int]:
        """The number of done units by scope; of any stage, also of stages that only earlier versions had."""
        return {row.scope: row.units for row in self._all(sql.DONE, {"scopes": list(scopes)})}

    def names(self, stage: Stage[Any], scope: str, keys: Sequence[str]) -> set[str]:
        """The names (`Unit.name`) of all attempts at the units so far."""
        rows = self._all(sql.ATTEMPTS, _values(stage, scope, keys))
        return {Unit(row.id, stage.name, scope, row.key, row.attempt, row.token).name for row in rows}

    def events(self, stage: Stage[Any], scope: str, key: str) -> list[Event]:
        """The events of a unit, the oldest first."""
        return [Event.of(row) for row in self._all(sql.EVENTS, _values(stage, scope, [key]))]


def _values(stage: Stage[Any], scope: str, keys: Sequence[str] | None) -> dict[str, object]:
    listed = None if keys is None else json.dumps(list(keys))
    return {"stage": stage.name, "scope": scope, "keys": listed}
