"""Units in the ledger: claimed by one worker at a time, finished by it, retried."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import create_engine, text

from made_core.errors import (
    CorruptShard,
    LeaseLost,
    Transient,
)
from made_core.ledger.ledger import Ledger
from made_core.ledger.records import Event
from made_core.stages import PAIRS
from made_core.types import UnitState
from tests.support.ledgers import (
    METADATA,
    SCOPE,
    STAGE,
    claim,
    kinds,
    output,
    put,
    sql,
    state,
)


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


def test_a_claim_passes_over_what_another_one_looks_at(ledger: Ledger, empty_url: str) -> None:
    """Else workers would wait for each other's transactions."""
    put(ledger, "a", "b")
    engine = create_engine(empty_url)
    with ThreadPoolExecutor(1) as pool, engine.begin() as connection:
        connection.execute(text("SELECT FROM unit WHERE key = 'a' FOR UPDATE"))
        units = pool.submit(claim, ledger, "a", "b", limit=1).result(30)
    assert [unit.key for unit in units] == ["b"]
    engine.dispose()


def test_units_that_are_opened_again_need_not_wait(ledger: Ledger) -> None:
    """Whatever wait the error had caused that failed them."""
    put(ledger, "damaged", "outage", attempts=1)
    for unit, error in zip(
        claim(ledger, "damaged", "outage"), (CorruptShard("x"), Transient("y")), strict=True
    ):
        assert ledger.units.fail(unit, error, 300) is UnitState.FAILED
    assert ledger.units.reopen(STAGE, SCOPE, ["damaged"]) == 1
    assert ledger.units.allow(STAGE, SCOPE, ["outage"], 1) == 1
    assert ledger.units.pending(STAGE, SCOPE, None) == (["damaged", "outage"], 0.0)
    assert [unit.key for unit in claim(ledger, "damaged", "outage")] == ["damaged", "outage"]


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


def test_used_up_attempts_are_given_again_and_a_permanent_error_stays(ledger: Ledger) -> None:
    """A run that is started again tries what an outage failed; a damaged shard waits for `made retry`."""
    put(ledger, "damaged", "done", "open", "outage", "lost", attempts=2)
    for _ in range(2):
        for unit in claim(ledger, "outage", "lost", lease=0):
            if unit.key == "outage":
                ledger.units.fail(unit, Transient("away"), 0)
    assert claim(ledger, "lost") == []  # fails it
    [damaged] = claim(ledger, "damaged")
    ledger.units.fail(damaged, CorruptShard("it ends early"), 0)
    [done] = claim(ledger, "done")
    ledger.units.finish(done, output())
    assert ledger.units.allow(STAGE, SCOPE, ["damaged", "done", "open", "outage", "lost"], 4) == 2
    assert {key: state(ledger, key) for key in ("damaged", "done", "outage", "lost")} == {
        "damaged": UnitState.FAILED, "done": UnitState.DONE, "outage": UnitState.OPEN,
        "lost": UnitState.OPEN,
    }  # fmt: skip
    assert ledger.units.results(STAGE, SCOPE, ["outage"])["outage"].error is None
    for key in ("open", "outage"):
        for attempt in range(1, 5):
            [unit] = claim(ledger, key)
            assert unit.attempt == attempt
            failed = ledger.units.fail(unit, Transient("away"), 0)
        assert failed is UnitState.FAILED, key
    assert ledger.units.allow(STAGE, SCOPE, ["open"], 1) == 1
    assert claim(ledger, "open")[0].attempt == 1


def test_a_run_raises_the_attempts_of_shared_units_and_lowers_none(ledger: Ledger) -> None:
    """Also of a unit that is running; another run may need the attempts that this one does not."""
    put(ledger, "open", "running", attempts=2)
    [running] = claim(ledger, "running")
    for most in (4, 1):
        assert ledger.units.allow(STAGE, SCOPE, ["open", "running"], most) == 0
    assert ledger.units.fail(running, Transient("away"), 0) is UnitState.OPEN
    for key, attempts in (("open", [1, 2, 3, 4]), ("running", [2, 3, 4])):
        for attempt in attempts:
            [unit] = claim(ledger, key)
            assert unit.attempt == attempt
            failed = ledger.units.fail(unit, Transient("away"), 0)
            assert failed is (UnitState.FAILED if attempt == 4 else UnitState.OPEN), key


def test_a_unit_that_is_done_has_no_error(ledger: Ledger) -> None:
    """Of an attempt before; nor are samples counted that a lost attempt had done."""
    put(ledger, "a")
    [unit] = claim(ledger, "a")
    ledger.units.renew([unit], 60, [9])
    ledger.units.fail(unit, Transient("away"), 0)
    assert ledger.units.tally(STAGE, SCOPE, None).samples == 0
    assert ledger.units.results(STAGE, SCOPE, None)["a"].error is not None
    [unit] = claim(ledger, "a", lease=0)
    ledger.units.renew([unit], 0, [9])
    [unit] = claim(ledger, "a")
    assert ledger.units.tally(STAGE, SCOPE, None).samples == 0
    ledger.units.finish(unit, output(5))
    result = ledger.units.results(STAGE, SCOPE, None)["a"]
    assert (result.state, result.error, result.attempts) == (UnitState.DONE, None, 3)


def test_the_seconds_of_a_unit_are_those_of_its_last_attempt(ledger: Ledger, empty_url: str) -> None:
    put(ledger, "a")
    claim(ledger, "a", lease=0)
    sql(empty_url, "UPDATE unit SET started_at = now() - interval '1 hour'")
    [unit] = claim(ledger, "a")
    ledger.units.finish(unit, output())
    seconds = ledger.units.results(STAGE, SCOPE, None)["a"].seconds
    assert seconds is not None and 0 < seconds < 600


def test_an_error_may_contain_any_text(ledger: Ledger) -> None:
    put(ledger, "a")
    (unit,) = claim(ledger, "a")
    ledger.units.fail(unit, ValueError("nul \0, surrogate \udc80, " + "long " * 100_000), 0)
    error = ledger.units.results(STAGE, SCOPE, ["a"])["a"].error
    assert error is not None and error.startswith("nul \\x00, surrogate \\udc80")
    assert len(error) < 30_000
