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
from tests.support.checks import ROOT

STAGE, SCOPE = EMBED, "scope"
FILE = FileRef("/store/a.npy", 10, "0" * 32, "0" * 8)
OUTPUT = EmbedOutput(1, FILE, FILE, 0, 0, 0)
GONE = f"{socket.gethostname()}:{2**22 + 1}"  # no process has this id


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
    child = subprocess.Popen(
        [sys.executable, "-c", "from flows.holder import holder; print(holder(), flush=True); input()"],
        cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    assert child.stdout is not None
    name = child.stdout.readline().strip()
    assert name.rpartition("-")[2] != holder._token()  # of each process
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
        pytest.param(holder.holder(), id="this process"),
        pytest.param(f"elsewhere:{2**22 + 1}/{holder._place()}-{holder._token()}", id="another host"),
        pytest.param(f"{GONE}/0123abcd-{holder._token()}", id="another PID namespace or boot"),
        pytest.param(GONE, id="an earlier version"),
        "me",
        "a:b",
    ],
)
def test_only_a_process_that_can_be_looked_up_is_known_to_have_died(name: str) -> None:
    assert holder.has_died(f"{GONE}/{holder._place()}-{holder._token()}")
    assert not holder.has_died(name)


HOLD = """
import sys
from contextlib import closing
from flows import holder
from made_core.errors import OutputHeld
from made_core.ledger.ledger import Ledger
with closing(Ledger.open(sys.argv[1])) as ledger:
    known = ledger.runs.of_output("/out")
    freed = known is not None and holder.free_if_died(ledger, known)
    try:
        ledger.runs.begin("new", "one", {}, "/out", "/store", holder.holder(), 60, False)
    except OutputHeld as error:
        print("freed" if freed else "alive or unknown", error, sep=": ", flush=True)
    else:
        print("holds", holder.holder(), flush=True)
        sys.stdin.read()
"""


def contained(url: str) -> subprocess.Popen[str]:
    """A process that takes the output, in a container with the host name made, where its id is 1."""
    return subprocess.Popen(
        ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", sys.executable, "-c", HOLD, url],
        cwd=ROOT, env={**os.environ, "MADE_HOST": "made"}, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip


@pytest.mark.skipif(os.geteuid() != 0, reason="a PID namespace needs root")
@pytest.mark.parametrize("in_container", [True, False], ids=["the same id", "an id unknown there"])
def test_a_container_does_not_take_a_live_run_of_its_host_name(
    ledger: Ledger, empty_url: str, in_container: bool
) -> None:
    with contained(empty_url) as first:
        assert first.stdout is not None
        name = first.stdout.readline().removeprefix("holds ").strip()
        assert name.startswith("made:1")
        if not in_container:
            ledger.runs.free("new", name)
            name = "made:" + holder.holder().rpartition(":")[2]
            begin(ledger, holder=name)
        with contained(empty_url) as second:
            said, _ = second.communicate(timeout=60)
        first.communicate()
    assert said.startswith(f"alive or unknown: /out is being written by run new, held by {name} until ")
    assert ledger.runs.renew("new", name, 60)
