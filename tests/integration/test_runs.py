"""Runs in the ledger: resumed, replaced, held by one process."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from made_core.errors import (
    CorruptShard,
    LeaseLost,
    OutputError,
)
from made_core.ledger.ledger import Ledger
from made_core.stages import EMBED, WRITE
from made_core.types import RunState, Shard, UnitState
from tests.support.ledgers import (
    SCOPE,
    STAGE,
    begin,
    claim,
    output,
)


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


def test_only_the_holder_is_freed(ledger: Ledger) -> None:
    """One that has died meanwhile may have a successor."""
    begin(ledger)
    assert not ledger.runs.free("r1", "you")
    run = ledger.runs.get("r1")
    assert run is not None and run.held
    assert ledger.runs.free("r1", "me")
    run = ledger.runs.get("r1")
    assert run is not None and not run.held


def test_an_end_is_repeated_with_the_same_result_only(ledger: Ledger) -> None:
    """And while the run has its output."""
    begin(ledger)
    for _ in range(2):
        ledger.runs.end("r1", "me", RunState.COMPLETED, {"kept": 5}, None)
    for state, kept in ((RunState.COMPLETED, 6), (RunState.CANCELLED, 5)):
        with pytest.raises(LeaseLost, match="run r1 is no longer held by me"):
            ledger.runs.end("r1", "me", state, {"kept": kept}, None)
    begin(ledger, "r2", recipe_digest="two", replace=True)
    with pytest.raises(LeaseLost, match="run r1 is no longer held by me"):
        ledger.runs.end("r1", "me", RunState.COMPLETED, {"kept": 5}, None)


def test_a_stage_that_is_started_again_has_its_new_scope(ledger: Ledger) -> None:
    begin(ledger)
    ledger.units.put("r1", STAGE, "before", ["a"], 3)
    ledger.units.put("r1", STAGE, SCOPE, ["a", "b"], 3)
    assert [scope.scope for scope in ledger.runs.scopes()] == [SCOPE]
    assert set(ledger.units.of_run("r1", STAGE)) == {"a", "b"}


@pytest.mark.parametrize("ended", [RunState.COMPLETED, RunState.FAILED, None])
def test_the_same_recipe_resumes_its_run(ledger: Ledger, ended: RunState | None) -> None:
    begin(ledger, lease_seconds=60 if ended else 0)
    if ended:
        ledger.runs.end("r1", "me", ended, None, "broke")
    recipe = {"output": "/out", "work": {"attempts": 5}}  # of equal digest; `made retry` reads it
    assert begin(ledger, "r2", holder="you", store="/store2", recipe=recipe) == "r1"
    run = ledger.runs.get("r1")
    assert run is not None and (run.state, run.error) == (RunState.RUNNING, None)
    assert (run.holder, run.store, run.recipe) == ("you", "/store2", recipe)
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


@pytest.mark.parametrize("ended", [RunState.FAILED, RunState.CANCELLED, RunState.COMPLETED])
@pytest.mark.parametrize("started", [False, True])
def test_a_run_that_failed_before_its_first_unit_gives_way(
    ledger: Ledger, ended: RunState, started: bool
) -> None:
    begin(ledger)
    if started:
        ledger.units.put("r1", EMBED, "scope", ["a"], 3)
    ledger.runs.end("r1", "me", ended, None, "no GPU")
    if ended is RunState.FAILED and not started:
        assert begin(ledger, "r2", recipe_digest="two") == "r2"
        old = ledger.runs.get("r1")
        assert old is not None and (old.replaced, old.state, old.error) == (True, ended, "no GPU")
    else:
        with pytest.raises(OutputError, match="another recipe"):
            begin(ledger, "r2", recipe_digest="two")


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


def test_put_shards_replaces(ledger: Ledger) -> None:
    """Those of this run only."""
    begin(ledger)
    begin(ledger, "r2", output="/out2")
    shard, other = Shard("a", "/a.tar", "f", 10, None), Shard("d", "/d.tar", "i", 3, 3)
    ledger.runs.put_shards("r2", [other])
    ledger.runs.put_shards("r1", [shard, Shard("b", "/b.tar", "g", 10, 5)])
    now = [replace(shard, url="/in/a.tar", fingerprint="x", size=2**40), Shard("c", "/c.tar", "h", 1, 1)]
    ledger.runs.put_shards("r1", now)
    assert list(ledger.runs.shards("r1")) == now and list(ledger.runs.shards("r2")) == [other]
    now = [replace(now[0], expected=7)]
    ledger.runs.put_shards("r1", now)
    assert list(ledger.runs.shards("r1")) == now


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
