"""Runs in the ledger: their output, holder, input and end."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from made_core.errors import TAKE_OVER, LeaseLost, OutputError, OutputHeld
from made_core.ledger.database import Database, Values, clean
from made_core.ledger.records import Run, RunScope
from made_core.ledger.statements import runs as sql
from made_core.types import FileRef, RunState, Shard


class Runs:
    """Transitions and queries of runs, one SQL statement each."""

    def __init__(self, database: Database) -> None:
        self._all, self._one = database.all, database.one

    def begin(
        self,
        run_id: str,
        recipe_digest: str,
        recipe: dict[str, Any],
        output: str,
        store: str,
        holder: str,
        lease_seconds: float,
        replace: bool,
    ) -> str:
        """Start a run that owns `output`, or resume the run with the same recipe digest that owns it.

        Returns:
            The id of the run: `run_id`, or that of the resumed run.

        Raises:
            OutputHeld: another process drives the run that owns it.
            OutputError: that run has another recipe, `replace` is false, and it did not fail before its first
                unit.
        """
        values = {
            "run_id": run_id, "recipe_digest": recipe_digest, "recipe": json.dumps(recipe),
            "output": output, "store": store, "holder": holder, "lease": lease_seconds,
            "replace": replace,
        }  # fmt: skip
        while True:
            row = self._one(sql.BEGIN, values)
            if row.id is not None:
                return str(row.id)
            if row.held and (row.same or replace):
                raise OutputHeld(
                    f"{output} is being written by run {row.owner}, held by {row.holder} "
                    f"until {row.lease_until:%Y-%m-%d %H:%M:%S %Z} unless renewed; wait for it or name "
                    "another output"
                )
            if row.owner is not None:
                raise OutputError(
                    f"{output} belongs to run {row.owner} with another recipe since "
                    f"{row.created_at:%Y-%m-%d %H:%M:%S %Z}; {TAKE_OVER}"
                )
            # Neither: another process took the output between the query and the insert. Try again.

    def renew(self, run_id: str, holder: str, lease_seconds: float) -> bool:
        """Hold the run for `lease_seconds` from now; False if `holder` no longer holds it."""
        values = {"run_id": run_id, "holder": holder, "lease": lease_seconds}
        return bool(self._all(sql.RENEW, values))

    def free(self, run_id: str, holder: str) -> bool:
        """End the lease of a `holder` that has died; False if it does not hold the run."""
        return bool(self._all(sql.FREE, {"run_id": run_id, "holder": holder}))

    def end(
        self,
        run_id: str,
        holder: str,
        state: RunState,
        summary: dict[str, Any] | None,
        error: str | None,
    ) -> None:
        """Record how the run ended and release it.

        Raises:
            LeaseLost: `holder` no longer holds the run.
        """
        values = {
            "run_id": run_id, "holder": holder, "state": state.value, "error": clean(error),
            "summary": None if summary is None else json.dumps(summary),
        }  # fmt: skip
        if not self._all(sql.END, values):
            raise LeaseLost(f"run {run_id} is no longer held by {holder}")

    def put_shards(self, run_id: str, shards: Sequence[Shard]) -> None:
        """Record `shards` as the run's input, replacing the recorded ones."""
        listed = json.dumps([vars(shard) for shard in shards])
        self._all(sql.PUT_SHARDS, {"run_id": run_id, "shards": listed})

    def put_corpus(self, run_id: str, corpus: FileRef) -> None:
        """Record the table of the run's corpus, replacing the recorded one."""
        self._all(sql.PUT_CORPUS, {"run_id": run_id, "corpus": json.dumps(asdict(corpus))})

    def shards(self, run_id: str) -> list[Shard]:
        """The run's input shards, sorted by id."""
        return [Shard(**row._asdict()) for row in self._all(sql.SHARDS, {"run_id": run_id})]

    def all(self) -> list[Run]:
        """All runs, the newest first."""
        return [Run.of(row) for row in self._all(sql.ALL, {})]

    def scopes(self) -> list[RunScope]:
        """The scopes that runs have started, of all their stages."""
        return [RunScope(**row._asdict()) for row in self._all(sql.SCOPES, {})]

    def get(self, run_id: str) -> Run | None:
        """The run with this id; None if there is none."""
        return self._first(sql.GET, {"run_id": run_id})

    def of_output(self, output: str) -> Run | None:
        """The run that owns the output; None if there is none."""
        return self._first(sql.OF_OUTPUT, {"output": output})

    def _first(self, statement: str, values: Values) -> Run | None:
        return next((Run.of(row) for row in self._all(statement, values)), None)
