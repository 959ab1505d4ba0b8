"""Runs of the whole: how a test starts one, and what its ledger says of it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from made_core.ledger.ledger import Ledger
from made_core.stages import BY_NAME

Curate = Callable[..., dict[str, Any]]  # the fixture `curate` of tests/e2e
MADE = str(Path(sys.executable).with_name("made"))


def events(url: str, run: str) -> dict[str, int]:
    """How often units of each stage of a run were claimed, ever."""
    ledger = Ledger.open(url)
    try:
        return {
            s.stage: sum(
                e.kind == "claimed"
                for key in ledger.units.results(BY_NAME[s.stage], s.scope, None)
                for e in ledger.units.events(BY_NAME[s.stage], s.scope, key)
            )
            for s in ledger.progress.of(run)
        }
    finally:
        ledger.close()
