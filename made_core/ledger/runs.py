"""Runs in the ledger: which output is whose, who drives a run, what went in, how it ended."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from made_core.errors import LeaseLost, OutputError
from made_core.ledger.database import LEASE, Database, clean
from made_core.ledger.records import Run
from made_core.types import FileRef, RunState, Shard


class Runs:
    """Transitions and questions of runs, one statement each."""

    def __init__(self, database: Database) -> None:
        self._all, self._one = database.all, database.one

    def begin(
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

    def renew(self, run_id: str, holder: str, lease_seconds: float) -> bool:
        """Hold the run for `lease_seconds` from now; False where `holder` no longer has it."""
        values = {"run_id": run_id, "holder": holder, "lease": lease_seconds}
        return bool(
            self._all(
                f"""UPDATE run SET lease_until = {LEASE}, updated_at = now()
                WHERE id = :run_id AND holder = :holder RETURNING id""",
                values,
            )
        )

    def end(
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
            "run_id": run_id, "holder": holder, "state": state.value, "error": clean(error),
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

    def put_corpus(self, run_id: str, corpus: FileRef) -> None:
        """Say what the run's corpus is, in place of what it was."""
        values = {"run_id": run_id, "corpus": json.dumps(asdict(corpus))}
        self._all("UPDATE run SET corpus = CAST(:corpus AS jsonb) WHERE id = :run_id", values)

    def shards(self, run_id: str) -> list[Shard]:
        """The run's input, by id."""
        rows = self._all(
            """SELECT id, url, fingerprint, size, expected FROM shard
            WHERE run_id = :run_id ORDER BY id""",
            {"run_id": run_id},
        )
        return [Shard(**row._asdict()) for row in rows]

    def all(self) -> list[Run]:
        """All runs, the newest first."""
        return self._runs("ORDER BY created_at DESC, id", {})

    def get(self, run_id: str) -> Run | None:
        """The run of that id."""
        return next(iter(self._runs("WHERE id = :run_id", {"run_id": run_id})), None)

    def of_output(self, output: str) -> Run | None:
        """The run to which the output belongs."""
        rows = self._runs("WHERE output = :output AND NOT replaced", {"output": output})
        return next(iter(rows), None)

    def _runs(self, clause: str, values: dict[str, Any]) -> list[Run]:
        sql = f"SELECT *, coalesce(lease_until > now(), false) AS held FROM run {clause}"
        return [Run.of(row) for row in self._all(sql, values)]
