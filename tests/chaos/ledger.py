"""Figures from the ledger's events of a run: retries, units done more than once, the cost of a failure."""

from __future__ import annotations

from collections import Counter
from typing import Any

from made_core.ledger.database import Database

EVENTS = """
    SELECT unit.stage, unit.key, unit.attempts, kind, event.error FROM event
    JOIN unit ON unit.id = event.unit_id JOIN stage USING (stage, scope)
    WHERE stage.run_id = (SELECT id FROM run WHERE output = :output AND NOT replaced)
    ORDER BY event.id"""


class Story:
    """The events of the run that owns an output."""

    def __init__(self, url: str, output: str) -> None:
        database = Database(url, patience=30)
        rows = database.all(EVENTS, {"output": output})
        database.close()
        self._units: dict[tuple[str, str], list[str]] = {}
        self.errors: Counter[str] = Counter()
        for row in rows:
            self._units.setdefault((row.stage, row.key), []).append(row.kind)
            if row.kind == "retry":
                self.errors[str(row.error).rsplit(":", 1)[-1].strip()[:100]] += 1

    def kinds(self, stage: str) -> Counter[str]:
        """How often each kind of event happened in a stage."""
        return Counter(kind for (of, _), kinds in self._units.items() if of == stage for kind in kinds)

    def claims(self, stage: str) -> list[int]:
        """How often each unit of a stage was started."""
        return sorted(kinds.count("claimed") for (of, _), kinds in self._units.items() if of == stage)

    def twice_done(self) -> int:
        """Units that were done more than once."""
        return sum(kinds.count("done") > 1 for kinds in self._units.values())

    def one_embed_again(self) -> bool:
        """Whether exactly one shard was started twice, every other once, and each was done once."""
        *once, twice = self.claims("embed")
        return twice == 2 and set(once) == {1} and self.kinds("embed")["done"] == len(once) + 1

    def summary(self) -> dict[str, Any]:
        """By stage: claims and their results."""
        stages = dict.fromkeys(stage for stage, _ in self._units)
        return {stage: dict(self.kinds(stage)) for stage in stages}
