"""Results of units in the ledger: reopened, shared between runs, read by their own stage."""

from __future__ import annotations

from dataclasses import replace

import pytest

from made_core.errors import (
    CorruptShard,
    OutdatedRun,
)
from made_core.ledger.ledger import Ledger
from made_core.stages import EMBED, PAIRS, TABULATE, Stage, TabulateOutput
from made_core.types import Account, Shard, UnitState
from tests.support.ledgers import (
    METADATA,
    ROWS,
    SCOPE,
    STAGE,
    begin,
    claim,
    kinds,
    output,
    put,
    state,
)


def test_failed_units_are_reopened_and_done_ones_forgotten(ledger: Ledger) -> None:
    put(ledger, "a", "b", "c", attempts=1)
    a, b, _ = claim(ledger, "a", "b", "c")
    ledger.units.finish(a, output(10))
    ledger.units.fail(b, ValueError("x"), 0)
    assert ledger.units.reopen(STAGE, SCOPE, ["a", "b", "c"]) == 1
    assert ledger.units.forget(STAGE, SCOPE, ["a", "b", "c"]) == 1
    a_now, b_now, _ = ledger.units.results(STAGE, SCOPE, None).values()
    assert (a_now.state, a_now.output) == (UnitState.OPEN, None)
    assert (b_now.state, b_now.error, b_now.attempts) == (UnitState.OPEN, None, 0)
    assert [unit.attempt for unit in claim(ledger, "a", "b", "c")] == [1, 1]
    assert kinds(ledger, "b") == ["claimed", "failed", "reopened", "claimed"]


def test_pending_waits_for_the_first_lease_to_end(ledger: Ledger) -> None:
    put(ledger, "a", "b", "c")
    claim(ledger, "a", lease=40)
    claim(ledger, "b", lease=20)
    assert ledger.units.pending(STAGE, SCOPE, None) == (["c"], 0.0)
    keys, seconds = ledger.units.pending(STAGE, SCOPE, ["a", "b"])
    assert keys == [] and seconds is not None and 19 < seconds <= 20
    assert ledger.units.pending(STAGE, SCOPE, ["no such"]) == ([], None)


def test_units_are_shared_and_created_once(ledger: Ledger) -> None:
    put(ledger, "a", "b", "b")
    (unit,) = claim(ledger, "a")
    ledger.units.finish(unit, output())
    begin(ledger, "r2", output="/out2", recipe_digest="two")
    ledger.runs.put_shards("r2", [Shard("x", "/x.tar", "b", 1, 5), Shard("y", "/y.tar", "c", 1, None)])
    ledger.units.put("r2", STAGE, SCOPE, ["b", "c"], 3)
    ledger.units.put("r2", STAGE, SCOPE, ["b", "c"], 3)
    assert sorted(ledger.units.results(STAGE, SCOPE, None)) == ["a", "b", "c"]
    assert state(ledger, "a") is UnitState.DONE
    (status,) = ledger.progress.of("r2")
    assert (status.planned, status.tally.total, status.tally.units[UnitState.DONE]) == (2, 2, 0)


def test_a_run_has_the_results_of_its_own_keys(ledger: Ledger) -> None:
    """Also if runs share a scope; in the order of the keys, in any state."""
    put(ledger, "c", "a", "b")
    a, b = claim(ledger, "a", "b")
    ledger.units.finish(a, output(1))
    ledger.units.fail(b, CorruptShard("b"), 0)
    begin(ledger, "r2", output="/out2", recipe_digest="two")
    assert ledger.units.of_run("r2", STAGE) == {}
    ledger.units.put("r2", STAGE, SCOPE, ["b", "d", "b"], 3)
    assert list(ledger.units.of_run("r1", STAGE)) == ["a", "b", "c"]
    mine = ledger.units.of_run("r2", STAGE)
    assert {key: r.state for key, r in mine.items()} == {"b": UnitState.FAILED, "d": UnitState.OPEN}
    assert mine == ledger.units.results(STAGE, SCOPE, ["b", "d"])
    assert mine["b"].output is None and mine["b"].error is not None
    assert ledger.units.of_run("r1", PAIRS) == {}
    (status,) = ledger.progress.of("r2")
    assert (status.planned, status.tally.total) == (2, 2)
    ledger.units.put("r2", STAGE, "another", ["a"], 3)  # the run has another scope now
    assert list(ledger.units.of_run("r2", STAGE)) == ["a"]
    assert ledger.progress.failures("r2", None) == []
    ledger.units.put("r2", STAGE, SCOPE, [], 3)
    assert ledger.units.of_run("r2", STAGE) == {} and ledger.progress.of("r2")[0].tally.total == 0


def test_outputs_of_another_version_of_a_stage_are_refused(ledger: Ledger) -> None:
    put(ledger, "a")
    (unit,) = claim(ledger, "a")
    ledger.units.finish(unit, output())
    newer = replace(EMBED, version=EMBED.version + 1)
    versions = f"version {EMBED.version} .* version {newer.version}"
    with pytest.raises(OutdatedRun, match=f"run r1, stage embed: .* {versions}; run it again"):
        ledger.units.of_run("r1", newer)
    # Another output type in the same version is a bug, and the error is as clear.
    other = Stage(EMBED.name, EMBED.folder, EMBED.version, EMBED.key, TabulateOutput)
    with pytest.raises(OutdatedRun, match=f"unit a: .* not a TabulateOutput as version {EMBED.version} of"):
        ledger.units.of_run("r1", other)


def test_an_output_holds_a_table_for_each_of_many_shards(ledger: Ledger) -> None:
    begin(ledger)
    ledger.units.put("r1", TABULATE, "t", ["0-2"], 3)
    (unit,) = ledger.units.claim(TABULATE, "t", ["0-2"], 1, 60, "host1")
    accounts = {"00000": Account(5, 3, {"exact_copy": 1}, 1), "00001": Account(2, 2)}
    tables = TabulateOutput(7, {"00000": ROWS, "00001": METADATA}, accounts, 1, 1, 0, 0)
    ledger.units.finish(unit, tables)
    assert ledger.units.of_run("r1", TABULATE)["0-2"].output == tables
    assert tables.refs == (ROWS, METADATA)


def test_many_rows_are_put_in_one_statement(ledger: Ledger) -> None:
    keys = [f"{n:032x}" for n in range(20_000)]
    begin(ledger)
    ledger.runs.put_shards("r1", [Shard(key, f"s3://b/{key}", key, 1, None) for key in keys])
    ledger.units.put("r1", STAGE, SCOPE, keys, 3)
    assert ledger.progress.of("r1")[0].tally.total == 20_000


# --- runs ---------------------------------------------------------------------------------------
