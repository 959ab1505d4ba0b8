"""A unit's lease is renewed until the unit ends, even if one renewal fails."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import pytest

from made_core.errors import LeaseLost, StorageFailed
from made_core.ledger.ledger import Ledger
from made_core.stages import EMBED
from made_core.types import Unit
from tasks.run_units import Lease

SECONDS = 60  # a test that waits longer fails


def test_renewals_continue_after_an_error(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger.runs.begin("r", "digest", {}, "/out", "/store", "host:1", 60, False)
    ledger.units.put("r", EMBED, "scope", ["key"], 3)
    (unit,) = ledger.units.claim(EMBED, "scope", ["key"], 1, 60, "host:1")
    renew, outcomes = ledger.units.renew, [StorageFailed("away"), ValueError("a defect")]
    renewed = threading.Event()

    def flaky(units: Sequence[Unit], seconds: float, progress: Sequence[int]) -> set[int]:
        if outcomes:
            raise outcomes.pop(0)
        held = renew(units, 60, progress)
        renewed.set()
        return held

    monkeypatch.setattr(ledger.units, "renew", flaky)
    with Lease(ledger, unit, 0.03) as lease:
        lease.progress(7)
        assert renewed.wait(SECONDS)
        lease.progress(8)
    assert ledger.units.tally(EMBED, "scope", None).samples in (7, 8)


def test_work_ends_when_another_holds_the_unit(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger.runs.begin("r", "digest", {}, "/out", "/store", "host:1", 60, False)
    ledger.units.put("r", EMBED, "scope", ["key"], 3)
    (unit,) = ledger.units.claim(EMBED, "scope", ["key"], 1, 60, "host:1")
    asked = threading.Event()

    def lost(*_: object) -> set[int]:
        asked.set()
        return set()

    monkeypatch.setattr(ledger.units, "renew", lost)
    with Lease(ledger, unit, 0.03) as lease:
        assert asked.wait(SECONDS)
        lease._thread.join(SECONDS)
        with pytest.raises(LeaseLost, match="embed key"):
            lease.progress(9)
