"""Runs in the ledger: which output belongs to which, who drives a run, what went in, how it ended."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from made_core.errors import LeaseLost, OutputError
from made_core.ledger.database import Database, clean
from made_core.ledger.records import Run
from made_core.ledger.statements import runs as sql
from made_core.types import FileRef, RunState, Shard


class Runs:
    """Transitions and questions of runs, one statement each."""

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
        """Take `output` for a run, or resume the run of the same recipe digest that has it.

        Returns:
            The id of the run: `run_id`, or that of the resumed one.

        Raises:
            OutputError: another process drives its run now, or it belongs to a run of another
                recipe and `replace` is false.
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

    def renew(self, run_id: str, holder: str, lease_seconds: float) -> bool:
        """Hold the run for `lease_seconds` from now; False where `holder` no longer has it."""
        values = {"run_id": run_id, "holder": holder, "lease": lease_seconds}
        return bool(self._all(sql.RENEW, values))

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
            LeaseLost: `holder` no longer has the run.
        """
        values = {
            "run_id": run_id, "holder": holder, "state": state.value, "error": clean(error),
            "summary": None if summary is None else json.dumps(summary),
        }  # fmt: skip
        if not self._all(sql.END, values):
            raise LeaseLost(f"run {run_id} is no longer held by {holder}")

    def put_shards(self, run_id: str, shards: Sequence[Shard]) -> None:
        """Make `shards` the run's input, in place of what it was."""
        listed = json.dumps([vars(shard) for shard in shards])
        self._all(sql.PUT_SHARDS, {"run_id": run_id, "shards": listed})

    def put_corpus(self, run_id: str, corpus: FileRef) -> None:
        """Record the table of the run's corpus, in place of what it was."""
        self._all(sql.PUT_CORPUS, {"run_id": run_id, "corpus": json.dumps(asdict(corpus))})

    def shards(self, run_id: str) -> list[Shard]:
        """The run's input, by id."""
        return [Shard(**row._asdict()) for row in self._all(sql.SHARDS, {"run_id": run_id})]

    def all(self) -> list[Run]:
        """All runs, the newest first."""
        return [Run.of(row) for row in self._all(sql.ALL, {})]

    def get(self, run_id: str) -> Run | None:
        """The run of that id."""
        return self._first(sql.GET, {"run_id": run_id})

    def of_output(self, output: str) -> Run | None:
        """The run to which the output belongs."""
        return self._first(sql.OF_OUTPUT, {"output": output})

    def _first(self, statement: str, values: dict[str, Any]) -> Run | None:
        return next((Run.of(row) for row in self._all(statement, values)), None)
