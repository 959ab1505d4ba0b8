"""The progress of a run: its stages, failed units and slow units."""

from __future__ import annotations

import json

from made_core.ledger.database import Database
from made_core.ledger.records import StageStatus, UnitStatus
from made_core.ledger.statements import progress as sql
from made_core.stages import STAGES


class Progress:
    """Queries on the stages of a run."""

    def __init__(self, database: Database) -> None:
        self._all = database.all

    def of(self, run_id: str) -> list[StageStatus]:
        """The progress of each stage that the run has started, in the order of STAGES.

        Stages that are not in STAGES, of other versions of made, come last, by name.
        """
        order = {stage.name: number for number, stage in enumerate(STAGES)}
        statuses = [StageStatus.of(row) for row in self._all(sql.STAGES, {"run_id": run_id})]
        return sorted(statuses, key=lambda status: order.get(status.stage, len(order)))

    def computed(self, run_id: str, within: float) -> dict[str, float]:
        """Wall time by stage, from the first start to the last finish of the units that the run itself has
        computed in the last `within` seconds; stages without such units are left out.
        """
        values = {"run_id": run_id, "within": within}
        return {row.stage: row.seconds for row in self._all(sql.COMPUTED, values)}

    def outdated(self, run_id: str) -> list[str]:
        """The run's stages that another version of made recorded: their results are not used."""
        known = {(stage.name, stage.version) for stage in STAGES}
        return [s.stage for s in self.of(run_id) if (s.stage, s.version) not in known]

    def forget_outdated(self, run_id: str) -> None:
        """Removes the run's outdated stages; their units stay in the ledger."""
        known = [{"stage": stage.name, "version": stage.version} for stage in STAGES]
        self._all(sql.FORGET_OUTDATED, {"run_id": run_id, "known": json.dumps(known)})

    def failures(self, run_id: str, limit: int | None) -> list[UnitStatus]:
        """The run's failed units, the latest first, at most `limit` (None: all)."""
        return self._units(sql.FAILURES, run_id, limit)

    def slowest(self, run_id: str, limit: int) -> list[UnitStatus]:
        """The `limit` done or running units of the run whose last attempt took longest."""
        return self._units(sql.SLOWEST, run_id, limit)

    def _units(self, statement: str, run_id: str, limit: int | None) -> list[UnitStatus]:
        return [UnitStatus.of(row) for row in self._all(statement, {"run_id": run_id, "limit": limit})]
