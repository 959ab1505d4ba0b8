"""Short forms of the ledger's calls, for tests with one run and one stage."""

from __future__ import annotations

from typing import Any

from sqlalchemy import create_engine, text

from made_core.ledger.ledger import Ledger
from made_core.stages import EMBED, EmbedOutput, Stage
from made_core.types import FileRef, Unit, UnitState

ROWS = FileRef("/store/a.npy", 10, "0" * 32, "0" * 8)
METADATA = FileRef("/store/a.parquet", 20, "1" * 32, "1" * 8)
STAGE, SCOPE = EMBED, "scope"
NAP = Stage("nap", "naps", 3, "anything", EmbedOutput)


def output(samples: int = 1, unreadable: int = 0, rows: FileRef = ROWS) -> EmbedOutput:
    return EmbedOutput(samples, rows, METADATA, unreadable, 0, 0)


def begin(ledger: Ledger, run_id: str = "r1", **changes: Any) -> str:
    values: dict[str, Any] = {
        "run_id": run_id, "recipe_digest": "one", "recipe": {"output": "/out"}, "output": "/out",
        "store": "/store", "holder": "me", "lease_seconds": 60, "replace": False,
    }  # fmt: skip
    return ledger.runs.begin(**values | changes)


def put(ledger: Ledger, *keys: str, attempts: int = 3) -> None:
    begin(ledger)
    ledger.units.put("r1", STAGE, SCOPE, keys, attempts)


def claim(ledger: Ledger, *keys: str, lease: float = 60, limit: int = 100) -> list[Unit]:
    return ledger.units.claim(STAGE, SCOPE, keys, limit, lease, "host1")


def kinds(ledger: Ledger, key: str) -> list[str]:
    return [event.kind for event in ledger.units.events(STAGE, SCOPE, key)]


def state(ledger: Ledger, key: str) -> UnitState:
    return ledger.units.results(STAGE, SCOPE, [key])[key].state


def sql(url: str, statement: str) -> None:
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.execute(text(statement))
    engine.dispose()
