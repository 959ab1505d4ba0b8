"""The ledger on PostgreSQL: each transition, and the constraints of the database."""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, inspect, text
from sqlalchemy.exc import IntegrityError

from made_core.errors import (
    CorruptShard,
    DatabaseError,
    LeaseLost,
    OutdatedRun,
    OutputError,
    StorageFailed,
    Transient,
)
from made_core.ledger import postgres
from made_core.ledger.ledger import Ledger
from made_core.ledger.records import Event
from made_core.ledger.upgrade import VERSION_TABLE
from made_core.stages import EMBED, PAIRS, TABULATE, WRITE, EmbedOutput, Stage, TabulateOutput
from made_core.types import Account, FileRef, RunState, Shard, Unit, UnitState

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


# --- schema -------------------------------------------------------------------------------------


def test_concurrent_starts_create_the_tables_once(empty_url: str) -> None:
    with ThreadPoolExecutor(6) as pool:
        ledgers = list(pool.map(Ledger.open, [empty_url] * 6))
    assert [ledger.runs.all() for ledger in ledgers] == [[]] * 6


def test_a_database_of_another_version_is_refused(ledger: Ledger, empty_url: str) -> None:
    sql(empty_url, f"UPDATE {VERSION_TABLE} SET version_num = '9999'")
    with pytest.raises(DatabaseError, match=r"another version of made.*9999.*0004"):
        Ledger.open(empty_url)


def test_a_database_with_foreign_tables_is_refused(empty_url: str) -> None:
    sql(empty_url, "CREATE TABLE unit (id int)")
    with pytest.raises(DatabaseError, match='cannot hold the ledger: relation "unit" already'):
        Ledger.open(empty_url)
    engine = create_engine(empty_url)
    assert inspect(engine).get_table_names() == ["unit"]
    engine.dispose()


UNIT = "INSERT INTO unit (stage, scope, key, max_attempts, attempts, state"


@pytest.mark.parametrize(
    ("statement", "constraint"),
    [
        (f"{UNIT}) VALUES ('embed', 's', 'k', 3, 0, 'asleep')", "unit_state_known"),
        (f"{UNIT}) VALUES ('embed', 's', 'a', 3, 0, 'open')", "unit_key"),
        (f"{UNIT}) VALUES ('embed', 's', 'k', 3, 4, 'done')", "unit_attempts"),
        (f"{UNIT}) VALUES ('embed', 's', 'k', 3, 3, 'open')", "unit_attempts"),
        ("UPDATE unit SET token = 't'", "unit_running_has_lease"),
        ("UPDATE unit SET state = 'running'", "unit_running_has_lease"),
        ("UPDATE unit SET state = 'running', token = 't', lease_until = now()",
         "unit_running_has_start"),
        ("UPDATE unit SET state = 'done', finished_at = now()", "unit_done_has_result"),
        ("UPDATE unit SET files = '[]'", "unit_done_has_result"),
        ("UPDATE unit SET state = 'done', files = '[]', samples = 1, counts = '{}'",
         "unit_finish_has_time"),
        ("UPDATE unit SET state = 'failed', finished_at = now()", "unit_failed_has_error"),
        ("UPDATE unit SET progress = -1", "unit_counts"),
        ("INSERT INTO event (unit_id, attempt, kind) VALUES (1, 1, 'slept')", "event_kind_known"),
        ("INSERT INTO event (unit_id, attempt, kind) VALUES (999, 1, 'done')", "event_unit"),
        ("INSERT INTO shard VALUES ('none', 'a', 'u', 'f', 1, 1)", "shard_run"),
        ("INSERT INTO shard VALUES ('r1', 'a', 'u', 'f', -1, 1)", "shard_counts"),
        ("UPDATE run SET holder = NULL", "run_holder_has_lease"),
        ("UPDATE run SET state = 'completed'", "run_running_is_held"),
        ("UPDATE run SET state = 'failed', holder = NULL, lease_until = NULL",
         "run_failed_has_error"),
        ("UPDATE run SET replaced = true", "run_replaced_rests"),
        ("INSERT INTO run (id, recipe_digest, recipe, output, store, state) "
         "VALUES ('r2', 'i', '{}', '/out', '/s', 'completed')", "run_output_live"),
    ],
)  # fmt: skip
def test_constraints_of_the_database(referee_url: str, statement: str, constraint: str) -> None:
    with pytest.raises(IntegrityError, match=constraint):
        sql(referee_url, statement)


@pytest.fixture(scope="module")
def referee_url(database_url: str) -> str:
    """A database with a run and the open unit `a`, which refused statements do not change."""
    sql_url = database_url.replace("/postgres?", "/referee?")
    engine = create_engine(database_url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text("CREATE DATABASE referee"))
    engine.dispose()
    ledger = Ledger.open(sql_url)
    begin(ledger)
    ledger.units.put("r1", STAGE, "s", ["a"], 3)
    return sql_url


def test_the_database_accepts_any_stage_name(ledger: Ledger) -> None:
    """made_core.stages is the only list of stages: a new one needs no migration."""
    begin(ledger)
    ledger.units.put("r1", NAP, "s", ["a"], 3)
    (unit,) = ledger.units.claim(NAP, "s", ["a"], 9, 60, "host1")
    ledger.units.finish(unit, output(7))
    assert ledger.units.of_run("r1", NAP)["a"].output == output(7)
    ledger.units.put("r1", PAIRS, "s", ["a"], 3)
    assert [(status.stage, status.version) for status in ledger.progress.of("r1")] == [
        ("pairs", 1),
        ("nap", 3),
    ]


# --- units --------------------------------------------------------------------------------------


def test_a_unit_is_claimed_renewed_finished(ledger: Ledger) -> None:
    put(ledger, "a", "b")
    first, second = claim(ledger, "a", "b")
    assert (first.key, first.stage, first.scope, first.attempt) == ("a", STAGE.name, SCOPE, 1)
    assert claim(ledger, "a", "b") == []
    assert ledger.units.renew([first, second], 60, [7, 8]) == {first.id, second.id}
    assert ledger.units.tally(STAGE, SCOPE, None).samples == 15
    ledger.units.finish(first, output(100, unreadable=10))
    result = ledger.units.results(STAGE, SCOPE, None)["a"]
    assert (result.state, result.output) == (UnitState.DONE, output(100, unreadable=10))
    assert ledger.units.results(STAGE, SCOPE, ["b"])["b"].output is None
    assert (result.error, result.attempts) == (None, 1)
    assert result.seconds is not None and result.seconds > 0
    tally = ledger.units.tally(STAGE, SCOPE, ["a", "b", "no such"])
    assert tally.units == {
        UnitState.OPEN: 0, UnitState.RUNNING: 1, UnitState.DONE: 1, UnitState.FAILED: 0
    }  # fmt: skip
    assert (tally.samples, tally.total) == (108, 2)
    assert ledger.units.tally(STAGE, SCOPE, ["a"]).total == 1
    assert ledger.units.tally(STAGE, SCOPE, []).total == 0
    assert ledger.units.renew([first, second], 60, [9, 9]) == {second.id}
    assert kinds(ledger, "a") == ["claimed", "done"]
    event = ledger.units.events(STAGE, SCOPE, "a")[0]
    assert isinstance(event, Event) and (event.host, event.attempt) == ("host1", 1)


def test_finish_is_idempotent_for_the_holder_only(ledger: Ledger) -> None:
    put(ledger, "a")
    (unit,) = claim(ledger, "a")
    ledger.units.finish(unit, output())
    ledger.units.finish(unit, output())  # the first response may have been lost
    with pytest.raises(LeaseLost):
        ledger.units.finish(unit, output(rows=METADATA))
    assert kinds(ledger, "a") == ["claimed", "done"]


def test_a_claim_whose_response_was_lost_is_not_claimed_again(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(ledger, "a", "b", "c")
    run_statement = ledger.units._all
    monkeypatch.setattr(ledger.units, "_all", lambda *a: (run_statement(*a), run_statement(*a))[1])
    units = claim(ledger, "a", "b", "c", limit=2)
    assert [(unit.key, unit.attempt) for unit in units] == [("a", 1), ("b", 1)]
    assert ledger.units.renew(units, 60, [0, 0]) == {unit.id for unit in units}
    monkeypatch.undo()
    assert [unit.key for unit in claim(ledger, "a", "b", "c")] == ["c"]


def test_claims_keep_to_their_keys_scope_and_limit(ledger: Ledger) -> None:
    put(ledger, "a", "b", "c")
    ledger.units.put("r1", PAIRS, "other", ["a"], 3)
    assert [unit.key for unit in claim(ledger, "c", "b", limit=1)] == ["b"]
    assert ledger.units.claim(STAGE, "other", ["a"], 9, 60, "h") == []
    assert claim(ledger) == []
    assert [u.key for u in ledger.units.claim(PAIRS, "other", ["a", "b"], 9, 60, "h")] == ["a"]


def test_eight_threads_claim_without_overlap(ledger: Ledger) -> None:
    keys = [f"{n:03d}" for n in range(200)]
    put(ledger, *keys)
    start = threading.Barrier(8)

    def work(_: int) -> list[str]:
        start.wait()
        mine: list[str] = []
        for _round in range(200):
            if not (units := claim(ledger, *keys, limit=7)):
                break
            mine += [unit.key for unit in units]
        return mine

    with ThreadPoolExecutor(8) as pool:
        claimed = [key for mine in pool.map(work, range(8)) for key in mine]
    # A worker may stop while others hold the last rows, but no unit is claimed twice.
    claimed += [unit.key for unit in claim(ledger, *keys, limit=1000)]
    assert sorted(claimed) == keys


def test_an_expired_lease_passes_on_and_the_old_worker_is_fenced(ledger: Ledger) -> None:
    put(ledger, "a")
    (old,) = claim(ledger, "a", lease=0)
    (new,) = claim(ledger, "a")
    assert (new.attempt, new.token != old.token) == (2, True)
    assert ledger.units.renew([old], 60, [5]) == set()
    with pytest.raises(LeaseLost):
        ledger.units.finish(old, output())
    assert ledger.units.fail(old, ValueError("late"), 0) is UnitState.RUNNING
    ledger.units.finish(new, output())
    assert kinds(ledger, "a") == ["claimed", "lost", "claimed", "done"]


def test_an_expired_lease_that_was_not_taken_can_be_renewed(ledger: Ledger) -> None:
    put(ledger, "a")
    (unit,) = claim(ledger, "a", lease=0)
    assert ledger.units.renew([unit], 60, [1]) == {unit.id}
    assert claim(ledger, "a") == []


def test_a_worker_lost_in_the_last_attempt_fails_the_unit(ledger: Ledger) -> None:
    put(ledger, "a", attempts=1)
    claim(ledger, "a", lease=0)
    assert ledger.units.pending(STAGE, SCOPE, None) == (["a"], 0.0)
    assert claim(ledger, "a") == []
    result = ledger.units.results(STAGE, SCOPE, ["a"])["a"]
    assert (result.state, result.error) == (UnitState.FAILED, "the worker was lost")
    assert kinds(ledger, "a") == ["claimed", "lost", "failed"]
    assert ledger.units.pending(STAGE, SCOPE, None) == ([], None)


def test_a_permanent_error_fails_at_once(ledger: Ledger) -> None:
    put(ledger, "a")
    (unit,) = claim(ledger, "a")
    assert ledger.units.fail(unit, CorruptShard("00000.tar\nends early"), 0) is UnitState.FAILED
    result = ledger.units.results(STAGE, SCOPE, ["a"])["a"]
    assert result.error == "the shard is not a complete tar: 00000.tar ends early"
    (failure,) = ledger.units.events(STAGE, SCOPE, "a")[1:]
    assert failure.kind == "failed" and "CorruptShard" in (failure.traceback or "")


def test_a_transient_error_is_retried_until_attempts_are_used_up(ledger: Ledger, empty_url: str) -> None:
    put(ledger, "a", attempts=2)
    (unit,) = claim(ledger, "a")
    assert ledger.units.fail(unit, Transient("slow"), 300) is UnitState.OPEN
    assert claim(ledger, "a") == []
    keys, seconds = ledger.units.pending(STAGE, SCOPE, None)
    assert keys == [] and seconds is not None and 0 < seconds <= 300
    sql(empty_url, "UPDATE unit SET not_before = now()")
    assert ledger.units.pending(STAGE, SCOPE, ["a"]) == (["a"], 0.0)
    (unit,) = claim(ledger, "a")
    assert unit.attempt == 2
    assert ledger.units.fail(unit, OSError(), 300) is UnitState.FAILED
    assert ledger.units.results(STAGE, SCOPE, ["a"])["a"].error == "OSError"
    assert kinds(ledger, "a") == ["claimed", "retry", "claimed", "failed"]


def test_an_error_may_contain_any_text(ledger: Ledger) -> None:
    put(ledger, "a")
    (unit,) = claim(ledger, "a")
    ledger.units.fail(unit, ValueError("nul \0, surrogate \udc80, " + "long " * 100_000), 0)
    error = ledger.units.results(STAGE, SCOPE, ["a"])["a"].error
    assert error is not None and error.startswith("nul \\x00, surrogate \\udc80")
    assert len(error) < 30_000


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
    tables = TabulateOutput(7, {"00000": ROWS, "00001": METADATA}, accounts, 1, 0)
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


def test_a_run_is_begun_renewed_and_ended(ledger: Ledger) -> None:
    assert begin(ledger) == "r1"
    run = ledger.runs.get("r1")
    assert run is not None and run == ledger.runs.of_output("/out") and ledger.runs.all() == [run]
    assert (run.state, run.holder, run.held, run.replaced) == (RunState.RUNNING, "me", True, False)
    assert run.recipe == {"output": "/out"}
    assert ledger.runs.renew("r1", "me", 60) and not ledger.runs.renew("r1", "you", 60)
    for _ in range(2):  # the first response may have been lost
        ledger.runs.end("r1", "me", RunState.COMPLETED, {"kept": 5}, None)
    run = ledger.runs.get("r1")
    assert run is not None and (run.state, run.summary) == (RunState.COMPLETED, {"kept": 5})
    assert (run.holder, run.held) == (None, False)
    assert not ledger.runs.renew("r1", "me", 60)
    with pytest.raises(LeaseLost, match="run r1 is no longer held by me"):
        ledger.runs.end("r1", "me", RunState.FAILED, None, "late")
    assert ledger.runs.get("none") is None and ledger.runs.of_output("/none") is None


@pytest.mark.parametrize("ended", [RunState.COMPLETED, RunState.FAILED, None])
def test_the_same_recipe_resumes_its_run(ledger: Ledger, ended: RunState | None) -> None:
    begin(ledger, lease_seconds=60 if ended else 0)
    if ended:
        ledger.runs.end("r1", "me", ended, None, "broke")
    assert begin(ledger, "r2", holder="you", store="/store2") == "r1"
    run = ledger.runs.get("r1")
    assert run is not None and (run.state, run.error) == (RunState.RUNNING, None)
    assert (run.holder, run.store) == ("you", "/store2")
    assert len(ledger.runs.all()) == 1


def test_another_recipe_needs_replace(ledger: Ledger) -> None:
    begin(ledger, lease_seconds=0)
    with pytest.raises(OutputError, match=r"/out belongs to run r1 .* since 20.*--replace"):
        begin(ledger, "r2", recipe_digest="two", holder="you")
    assert begin(ledger, "r2", recipe_digest="two", holder="you", replace=True) == "r2"
    old, owner = ledger.runs.get("r1"), ledger.runs.of_output("/out")
    assert owner is not None and owner.id == "r2"
    assert old is not None and old.replaced and old.error == "replaced by run r2"
    assert not ledger.runs.renew("r1", "me", 60)
    with pytest.raises(LeaseLost):
        ledger.runs.end("r1", "me", RunState.COMPLETED, None, None)


def test_a_replaced_run_keeps_how_it_ended(ledger: Ledger) -> None:
    begin(ledger)
    ledger.runs.end("r1", "me", RunState.COMPLETED, {"kept": 1}, None)
    begin(ledger, "r2", recipe_digest="two", replace=True)
    old = ledger.runs.get("r1")
    assert old is not None and (old.state, old.error) == (RunState.COMPLETED, None)


@pytest.mark.parametrize("recipe_digest", ["one", "two"])
def test_a_live_run_is_not_taken_over_even_with_replace(ledger: Ledger, recipe_digest: str) -> None:
    begin(ledger)
    with pytest.raises(OutputError, match="being written by run r1, held by me until"):
        begin(ledger, "r2", recipe_digest=recipe_digest, holder="you", replace=True)
    assert begin(ledger) == "r1"  # its own process may repeat the call


@pytest.mark.parametrize("taken", [False, True])
def test_only_one_of_many_runs_gets_an_output(ledger: Ledger, taken: bool) -> None:
    if taken:
        begin(ledger, "r", recipe_digest="old", lease_seconds=0)
    start = threading.Barrier(8)

    def attempt(n: int) -> str:
        start.wait()
        try:
            return begin(ledger, f"r{n}", recipe_digest=f"i{n}", holder=f"h{n}", replace=True)
        except OutputError as error:
            assert "held by h" in str(error)
            return ""

    with ThreadPoolExecutor(8) as pool:
        got = [run for run in pool.map(attempt, range(8)) if run]
    assert len(got) == 1
    assert [run.id for run in ledger.runs.all() if not run.replaced] == got


def test_put_shards_replaces(ledger: Ledger, empty_url: str) -> None:
    begin(ledger)
    shard = Shard("a", "/a.tar", "f", 10, None)
    ledger.runs.put_shards("r1", [shard, Shard("b", "/b.tar", "g", 10, 5)])
    ledger.runs.put_shards("r1", [replace(shard, size=2**40), Shard("c", "/c.tar", "h", 1, 1)])
    engine = create_engine(empty_url)
    with engine.connect() as connection:
        rows = connection.execute(text("SELECT id, size, expected FROM shard ORDER BY id")).all()
    engine.dispose()
    assert rows == [("a", 2**40, None), ("c", 1, 1)]


def test_status_lists_stages_failures_and_the_slowest(ledger: Ledger) -> None:
    begin(ledger)
    shards = [Shard("00000", "/0.tar", "a", 1, 5), Shard("00001", "/1.tar", "b", 1, 5)]
    ledger.runs.put_shards("r1", shards)
    ledger.units.put("r1", WRITE, "w", ["00000"], 3)
    ledger.units.put("r1", STAGE, SCOPE, ["a", "b"], 3)
    a, b = claim(ledger, "a", "b")
    (w,) = ledger.units.claim(WRITE, "w", ["00000"], 1, 60, "host2")
    ledger.units.renew([w], 60, [3])
    ledger.units.finish(a, output(5))
    ledger.units.fail(b, CorruptShard("b"), 0)
    embed, write = ledger.progress.of("r1")
    assert (embed.stage, write.stage, embed.scope) == (EMBED.name, WRITE.name, SCOPE)
    assert embed.tally.units[UnitState.FAILED] == embed.tally.units[UnitState.DONE] == 1
    assert (embed.tally.samples, write.tally.samples) == (5, 3)
    assert embed.started_at is not None and embed.finished_at is not None
    assert embed.started_at < embed.finished_at and write.finished_at is None
    (failure,) = ledger.progress.failures("r1", 10)
    assert (failure.key, failure.shard, failure.host) == ("b", "00001", "host1")
    assert "CorruptShard" in (failure.traceback or "")
    assert (failure.stage, failure.state) == (EMBED.name, UnitState.FAILED)
    slowest = ledger.progress.slowest("r1", 10)
    assert {unit.shard for unit in slowest} == {"00000", None}
    assert {unit.key for unit in slowest} == {"a", "00000"}
    assert slowest[0].seconds is not None and slowest[1].seconds is not None
    assert slowest[0].seconds >= slowest[1].seconds
    assert len(ledger.progress.slowest("r1", 1)) == 1
    begin(ledger, "r2", output="/out2")
    assert ledger.progress.of("r2") == [] and ledger.progress.failures("r2", 9) == []


# --- the server ---------------------------------------------------------------------------------


def test_calls_survive_a_restart_of_the_database(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with postgres.embedded(tmp_path) as url:
        ledger = Ledger.open(url, patience=60)
        put(ledger, "a")
        data = tmp_path / "postgres"
        with postgres._locked(tmp_path):  # otherwise it would be restarted at once
            postgres._run(data, "pg_ctl", "stop", "-D", str(data), "-m", "immediate")
            impatient = Ledger(url, patience=0.5)
            with pytest.raises(StorageFailed, match=r"storage failed: .*tried for 0.5 s"):
                impatient.runs.all()
            with caplog.at_level(logging.WARNING), ThreadPoolExecutor(1) as pool:
                caplog.clear()
                call = pool.submit(claim, ledger, "a")
                while "does not answer" not in caplog.text:
                    assert not call.done()
                    time.sleep(0.01)
                postgres._start(data, data)
                assert [unit.key for unit in call.result(timeout=30)] == ["a"]


def test_more_workers_than_connections(ledger: Ledger, empty_url: str) -> None:
    """Calls wait for connections that others use."""
    put(ledger, "a")
    engine = create_engine(empty_url, pool_size=100, max_overflow=0)
    held = [engine.connect() for _ in range(97)]
    with ThreadPoolExecutor(8) as pool:
        calls = [pool.submit(ledger.units.tally, STAGE, SCOPE, None) for _ in range(24)]
        time.sleep(0.3)
        for connection in held:
            connection.close()
        engine.dispose()
        assert {call.result(timeout=30).total for call in calls} == {1}


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("postgresql://me:hunter2@127.0.0.1:1/made", r"made on 127.0.0.1:1 cannot be reached"),
        ("postgresql+psycopg://me:hunter2@127.0.0.1:1/made", "cannot be reached"),
        ("mysql://me:hunter2@host/made", r"mysql://, expected postgresql://"),
        ("me:hunter2@host", r"expected postgresql://user@host/name"),
    ],
)
def test_an_unusable_database_is_reported_without_its_password(url: str, message: str) -> None:
    with pytest.raises(DatabaseError, match=message) as caught:
        Ledger.open(url)
    assert "hunter2" not in str(caught.value) and "\n" not in str(caught.value)


def test_a_folder_of_another_host_is_refused(tmp_path: Path) -> None:
    (tmp_path / "postgres.host").write_text("login9\n")
    with pytest.raises(DatabaseError) as caught, postgres.embedded(tmp_path):
        pass
    for word in (str(tmp_path), "login9", socket.gethostname(), "MADE_DATABASE_URL", "MADE_HOME"):
        assert word in str(caught.value)
    assert not (tmp_path / "postgres").exists()


USE = """
import sys, time
from pathlib import Path
from made_core.ledger.ledger import Ledger
from made_core.ledger.postgres import embedded
with embedded(Path(sys.argv[1])) as url:
    Ledger.open(url)
    print("in", flush=True)
    sys.stdin.read()
"""


def use(home: Path) -> subprocess.Popen[str]:
    """Another process that uses the server until its stdin is closed."""
    process = subprocess.Popen(
        [sys.executable, "-c", USE, str(home)],
        cwd=Path(__file__).parents[2], text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None and process.stdout.readline() == "in\n"
    return process


def test_processes_share_a_server_and_the_last_one_stops_it(tmp_path: Path) -> None:
    home = tmp_path / ("a folder with spaces, too long for a socket " * 3)
    data = home / "postgres"
    with postgres.embedded(home) as url:
        other, killed = use(home), use(home)
        os.kill(killed.pid, signal.SIGKILL)
        killed.communicate()
    assert postgres._server(data)
    Ledger.open(url).close()
    other.communicate()
    assert other.returncode == 0 and not postgres._server(data)
    with postgres.embedded(home) as again:
        assert again == url


def test_a_recorded_process_id_of_another_process_is_not_a_server(tmp_path: Path) -> None:
    with postgres.embedded(tmp_path):
        pass
    (tmp_path / "postgres" / "postmaster.pid").write_text(f"{os.getpid()}\n")
    with postgres.embedded(tmp_path) as url:
        assert Ledger.open(url).runs.all() == []


def test_a_failed_start_reports_the_reason(tmp_path: Path) -> None:
    with postgres.embedded(tmp_path):
        pass
    with (tmp_path / "postgres" / "postgresql.conf").open("a") as conf:
        conf.write("shared_buffers = much\n")
    with pytest.raises(DatabaseError, match="shared_buffers"), postgres.embedded(tmp_path):
        pass


def test_a_kept_connection_is_one_until_it_rests(ledger: Ledger, empty_url: str) -> None:
    """Short units share a connection; a rest gives it back, and one that was lost is made again."""
    keeps = Ledger(empty_url, keep=True)
    begin(keeps)
    first = backends(empty_url)
    put(keeps, "a")
    assert len(first) == 1 and backends(empty_url) == first
    keeps.rest()
    assert backends(empty_url) == set()
    assert state(keeps, "a") is UnitState.OPEN
    second = backends(empty_url, "pg_terminate_backend(pid, 5000)")
    assert len(second) == 1 and second != first and backends(empty_url) == set()
    assert state(keeps, "a") is UnitState.OPEN
    keeps.close()
    assert backends(empty_url) == set()


def backends(url: str, action: str = "true") -> set[int]:
    """The server's processes with a connection of a ledger; `action` is done to each."""
    statement = f"""SELECT pid, {action} FROM pg_stat_activity
        WHERE application_name = 'made' AND datname = current_database()"""
    engine = create_engine(url)
    with engine.connect() as connection:
        found = {row.pid for row in connection.execute(text(statement))}
    engine.dispose()
    return found
