"""A run that is stopped gives back what it holds; a holder that has died is seen at once on its host."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from typing import Any

import pytest

from flows import holder
from made_core.errors import LeaseLost, OutputHeld
from made_core.ledger.ledger import Ledger
from made_core.stages import EMBED, EmbedOutput
from made_core.types import FileRef, RunState

STAGE, SCOPE = EMBED, "scope"
FILE = FileRef("/store/a.npy", 10, "0" * 32, "0" * 8)
OUTPUT = EmbedOutput(1, FILE, FILE, 0, 0, 0)


def begin(ledger: Ledger, run_id: str = "r1", **changes: Any) -> str:
    values: dict[str, Any] = {
        "run_id": run_id, "recipe_digest": "one", "recipe": {}, "output": "/out", "store": "/store",
        "holder": "me", "lease_seconds": 60, "replace": False,
    }  # fmt: skip
    return ledger.runs.begin(**values | changes)


def test_a_stopped_run_gives_its_units_back(ledger: Ledger) -> None:
    """Units of other runs stay; the attempt does not count; the run's workers get no more units."""
    begin(ledger)
    begin(ledger, "r2", output="/out2")
    keys = ["a", "b", "c"]
    for run in ("r1", "r2"):
        ledger.units.put(run, STAGE, SCOPE, keys, 3)
    (mine,) = ledger.units.claim(STAGE, SCOPE, ["a"], 1, 60, "host:1", "r1")
    (other,) = ledger.units.claim(STAGE, SCOPE, ["b"], 1, 60, "host:1", "r2")
    ledger.runs.end("r1", "me", RunState.CANCELLED, None, "cancelled")
    assert ledger.units.release("r1") == 1 and ledger.units.release("r1") == 0
    assert ledger.units.claim(STAGE, SCOPE, keys, 9, 60, "host:1", "r1") == []
    with pytest.raises(LeaseLost):
        ledger.units.finish(mine, OUTPUT)
    ledger.units.finish(other, OUTPUT)
    assert [e.kind for e in ledger.units.events(STAGE, SCOPE, "a")] == ["claimed", "released"]
    begin(ledger, "r3")
    (again,) = ledger.units.claim(STAGE, SCOPE, ["a"], 1, 60, "host:2", "r1")
    assert (again.key, again.attempt) == ("a", 1)


def test_a_holder_that_has_died_is_freed(ledger: Ledger) -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    name = f"{socket.gethostname()}:{child.pid}"
    begin(ledger, holder=name)
    ledger.units.put("r1", STAGE, SCOPE, ["a"], 3)
    ledger.units.claim(STAGE, SCOPE, ["a"], 1, 60, "host:1", "r1")
    run = ledger.runs.get("r1")
    assert run is not None and not holder.free_if_died(ledger, run)
    child.communicate()
    with pytest.raises(OutputHeld):
        begin(ledger, "r2", holder="you")
    assert holder.free_if_died(ledger, run)
    assert begin(ledger, "r2", holder="you") == "r1"
    assert [u.attempt for u in ledger.units.claim(STAGE, SCOPE, ["a"], 1, 60, "host:1", "r1")] == [1]
    assert not holder.free_if_died(ledger, run)  # by now another process holds it
    run = ledger.runs.get("r1")
    assert run is not None and run.held and run.holder == "you"


@pytest.mark.parametrize(
    "name",
    [
        f"elsewhere:{2**22 + 1}",
        pytest.param(f"{socket.gethostname()}:{os.getpid()}", id="this process"),
        "me",
        "a:b",
    ],
)
def test_only_a_process_of_this_host_is_known_to_have_died(name: str) -> None:
    assert not holder.has_died(name)
