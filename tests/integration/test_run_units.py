"""What every task does: its log names shards, and a process that fails every unit stops claiming them."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import pytest

from made_core.errors import CorruptShard, LeaseLost
from made_core.ledger.ledger import Ledger
from made_core.recipe import Recipe
from made_core.stages import EMBED, EmbedOutput
from made_core.types import Encoding, FileRef, RunState, Unit, UnitState
from tasks import health, run_units
from tasks.run_units import Progress, RunContext

FILE = FileRef("/store/a.npy", 10, "0" * 32, "0" * 8)
ENCODING = Encoding("0" * 16, "perceptual", 4, 48, "cpu", "fp32", 8, 0.1, 0.1, True)
NAMES = {"f" * 32: "00000", "e" * 32: "00001"}


@pytest.mark.parametrize("shards", [2, run_units.MANY + 1])
def test_lines_name_shards(
    ledger: Ledger,
    empty_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    shards: int,
) -> None:
    """Never fingerprints. In a run of many shards only errors are above DEBUG."""
    logger = logging.getLogger("test.task")
    monkeypatch.setattr(run_units, "get_run_logger", lambda: logger)
    recipe = Recipe(sources=("in",), output=str(tmp_path / "out"))
    context = RunContext("r1", empty_url, recipe, ENCODING, shards=shards)
    ledger.runs.begin("r1", "d", {}, recipe.output, recipe.store_url, "host:1", 60, False)
    ledger.units.put("r1", EMBED, "scope", list(NAMES), 3)

    def one(unit: Unit, progress: Progress) -> EmbedOutput:
        if NAMES[unit.key] == "00001":
            raise CorruptShard("/in/00001.tar")
        return EmbedOutput(5, FILE, FILE, 0, 0, 0)

    with caplog.at_level(logging.DEBUG, logger.name):
        run_units.run_units(context, EMBED, "scope", NAMES, one)
    lines = [(r.levelno, r.getMessage()) for r in caplog.records if r.name == logger.name]
    level = logging.INFO if shards == 2 else logging.DEBUG
    assert (level, "embed 00000: attempt 1") in lines and (level, "embed 00000: done, 5 samples") in lines
    failed = "embed 00001: failed: the shard is not a complete tar: /in/00001.tar"
    assert (logging.ERROR, failed) in lines
    assert not [line for _, line in lines if any(key in line for key in NAMES)]


KEYS = [f"{n:032x}" for n in range(40)]


@pytest.fixture
def context(ledger: Ledger, empty_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunContext:
    """A run of 40 units, in a process that is healthy and does not wait."""
    recipe = Recipe(sources=("in",), output=str(tmp_path / "out"))
    ledger.runs.begin("r1", "d", {}, recipe.output, recipe.store_url, "host:1", 60, False)
    ledger.units.put("r1", EMBED, "scope", KEYS, 3)
    monkeypatch.setattr(run_units, "get_run_logger", lambda: logging.getLogger("test.task"))
    monkeypatch.setattr(health.HEALTH, "_row", [])
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return RunContext("r1", empty_url, recipe, ENCODING)


def attempts(ledger: Ledger) -> int:
    """Of all units."""
    return sum(e.kind == "claimed" for key in KEYS for e in ledger.units.events(EMBED, "scope", key))


def lost_gpu(unit: Unit, progress: Progress) -> EmbedOutput:
    """As each call of CUDA after the first such error."""
    raise RuntimeError("CUDA error: an illegal memory access was encountered")


def test_a_sick_process_leaves_the_units_to_others(
    ledger: Ledger, context: RunContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stops after three, then waits before each further one; a success makes it healthy again."""
    waited: list[float] = []
    monkeypatch.setattr("tasks.health.time.sleep", waited.append)
    run_units.run_units(context, EMBED, "scope", KEYS, lost_gpu)
    assert attempts(ledger) == health.ROW and waited == []
    run_units.run_units(context, EMBED, "scope", KEYS, lost_gpu)
    run_units.run_units(context, EMBED, "scope", KEYS, lost_gpu)
    assert attempts(ledger) == health.ROW + 2 and waited == [health.REST, 2 * health.REST]
    run_units.run_units(context, EMBED, "scope", KEYS, lambda unit, _: EmbedOutput(5, FILE, FILE, 0, 0, 0))
    states = [r.state for r in ledger.units.results(EMBED, "scope", KEYS).values()]
    assert UnitState.FAILED not in states and states.count(UnitState.DONE) >= len(KEYS) - attempts(ledger)
    assert not health.HEALTH.sick


def test_errors_of_the_data_make_no_process_sick(ledger: Ledger, context: RunContext) -> None:
    def one(unit: Unit, progress: Progress) -> EmbedOutput:
        raise CorruptShard("/in/00001.tar")

    run_units.run_units(context, EMBED, "scope", KEYS, one)
    states = {r.state for r in ledger.units.results(EMBED, "scope", KEYS).values()}
    assert states == {UnitState.FAILED} and not health.HEALTH.sick


def test_one_unit_that_fails_again_and_again_makes_no_process_sick(
    ledger: Ledger, context: RunContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_units, "backoff", lambda attempt: 0)
    run_units.run_units(context, EMBED, "scope", KEYS[:1], lost_gpu)
    assert attempts(ledger) == 3 and not health.HEALTH.sick


def test_a_sick_process_with_a_gpu_ends(
    ledger: Ledger, context: RunContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CUDA works again only in another process; Ray starts one. A healthy one stays."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    run_units.run_units(context, EMBED, "scope", KEYS, lost_gpu)  # of the node: the task reserves none
    assert attempts(ledger) == health.ROW
    monkeypatch.setattr(health.HEALTH, "_row", [])
    work = context.recipe.work.model_copy(update={"gpus_per_task": 0.5})
    context = replace(context, recipe=context.recipe.model_copy(update={"work": work}))
    run_units.run_units(
        context, EMBED, "scope", KEYS[-1:], lambda unit, _: EmbedOutput(5, FILE, FILE, 0, 0, 0)
    )
    with pytest.raises(SystemExit, match="one unit after the other fails in a process with a GPU"):
        run_units.run_units(context, EMBED, "scope", KEYS, lost_gpu)
    assert attempts(ledger) == 2 * health.ROW + 1


def test_a_unit_that_another_worker_has_is_left_to_it(ledger: Ledger, context: RunContext) -> None:
    """Lost leases, as after an outage of the database, fail no unit and make no process sick."""

    def one(unit: Unit, progress: Progress) -> EmbedOutput:
        if unit.key in KEYS[:4]:
            raise LeaseLost(f"embed {unit.key}")
        return EmbedOutput(5, FILE, FILE, 0, 0, 0)

    run_units.run_units(context, EMBED, "scope", KEYS, one)
    results = ledger.units.results(EMBED, "scope", KEYS)
    assert [results[key].state for key in KEYS] == [UnitState.RUNNING] * 4 + [UnitState.DONE] * 36
    assert attempts(ledger) == len(KEYS) and not health.HEALTH.sick


def test_no_unit_is_claimed_for_a_run_that_has_ended(ledger: Ledger, context: RunContext) -> None:
    """Its workers may outlive it by seconds."""
    ledger.runs.end("r1", "host:1", RunState.CANCELLED, None, None)
    run_units.run_units(context, EMBED, "scope", KEYS, lost_gpu)
    assert attempts(ledger) == 0
