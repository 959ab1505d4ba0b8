"""Migrations: upgraded databases have the schema of new ones, and their data stays readable."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Inspector, create_engine, inspect, text

from made_core.errors import OutdatedRun
from made_core.ledger.ledger import Ledger
from made_core.stages import EMBED, FIT, PAIRS, STAGES, EmbedOutput, Stage
from made_core.types import FileRef, RunState, UnitState

TABLES = ("event", "run", "shard", "stage", "unit")
BEFORE = (Path(__file__).parent / "data" / "ledger_0002.sql").read_text(encoding="utf-8")
SHARED = "e" * 16  # the scope of the old embed units
KEYS = [digit * 32 for digit in "0123"]
KINDS = {"claimed", "lost", "done", "retry", "failed", "reopened", "released"}  # of events


@pytest.fixture
def old_url(empty_url: str) -> str:
    """A database of schema 0002, with rows in every table."""
    engine = create_engine(empty_url)
    with engine.begin() as connection:
        connection.exec_driver_sql(BEFORE)
    engine.dispose()
    return empty_url


@pytest.fixture
def upgraded(old_url: str) -> Iterator[Ledger]:
    """The ledger on that database."""
    ledger = Ledger.open(old_url, patience=30)
    yield ledger
    ledger.close()


def inspected(url: str) -> Inspector:
    engine = create_engine(url)
    try:
        return inspect(engine)
    finally:
        engine.dispose()


def definitions(url: str) -> dict[str, Any]:
    """PostgreSQL's definitions of the tables, except the order of the columns."""
    found = inspected(url)
    return {
        table: {
            "columns": {c["name"]: (str(c["type"]), *map(c.get, ("nullable", "default", "comment")))
                        for c in found.get_columns(table)},
            "comment": found.get_table_comment(table),
            "checks": {c["name"]: c["sqltext"] for c in found.get_check_constraints(table)},
            "indexes": found.get_indexes(table),
            "unique": found.get_unique_constraints(table),
            "key": found.get_pk_constraint(table),
            "foreign": found.get_foreign_keys(table),
        }
        for table in TABLES
    }  # fmt: skip


def test_an_upgraded_database_has_the_schema_of_a_new_one(
    ledger: Ledger, empty_url: str, database_url: str
) -> None:
    new = definitions(empty_url)
    engine = create_engine(empty_url)
    with engine.begin() as connection:
        connection.execute(text("DROP TABLE event, unit, stage, shard, run, made_version"))
        connection.exec_driver_sql(BEFORE)
    engine.dispose()
    assert definitions(empty_url) != new
    Ledger.open(empty_url).close()
    assert definitions(empty_url) == new


def test_every_table_and_column_has_a_comment(ledger: Ledger, empty_url: str) -> None:
    assert set(inspected(empty_url).get_table_names()) == {*TABLES, "made_version"}
    for table, found in definitions(empty_url).items():
        assert found["comment"]["text"], table
        assert [name for name, (*_, comment) in found["columns"].items() if not comment] == []


@pytest.mark.parametrize(
    ("table", "check", "values"),
    [
        ("run", "run_state_known", {state.value for state in RunState}),
        ("unit", "unit_state_known", {state.value for state in UnitState}),
        ("event", "event_kind_known", KINDS),
    ],
)
def test_the_database_accepts_the_states_of_the_code(
    ledger: Ledger, empty_url: str, table: str, check: str, values: set[str]
) -> None:
    checks = definitions(empty_url)[table]["checks"]
    assert set(re.findall(r"'(\w+)'", checks[check])) == values
    assert sum(len(found["checks"]) for found in definitions(empty_url).values()) > 15


# --- a ledger of the version before -------------------------------------------------------------


def test_runs_of_an_earlier_version_are_listed(upgraded: Ledger) -> None:
    assert [run.id for run in upgraded.runs.all()] == ["r3", "r1", "r2"]
    run = upgraded.runs.get("r2")
    assert run is not None and run == upgraded.runs.of_output("/out")
    assert (run.recipe_digest, run.state) == ("d2", RunState.COMPLETED_WITH_FAILURES)
    assert run.corpus is not None and run.corpus.path == "/store/corpora/c.parquet"
    assert [shard.fingerprint for shard in upgraded.runs.shards("r2")] == KEYS[:3]


def test_their_progress_is_shown(upgraded: Ledger) -> None:
    """r2 and r3 share the scope of embed: each has the units of its own shards."""
    found = {run: upgraded.progress.of(run) for run in ("r1", "r2", "r3")}
    assert found["r1"] == [] and {status.version for status in found["r2"]} == {0}
    known = ["embed", "fit", "assign", "pairs", "resolve", "write"]
    assert [status.stage for status in found["r2"]] == [*known, "catalog", "decide"]
    embed, second = found["r2"][0].tally, found["r3"][0].tally
    assert embed.units == dict(zip(UnitState, (0, 0, 2, 1), strict=True)) and embed.samples == 10
    assert second.units == dict(zip(UnitState, (0, 1, 0, 1), strict=True)) and second.samples == 3
    assert all(status.tally.units[UnitState.DONE] == 1 for status in found["r2"][1:])
    for run in ("r2", "r3"):
        (failure,) = upgraded.progress.failures(run, None)
        assert (failure.stage, failure.key, failure.shard) == ("embed", KEYS[2], "00002")
    assert {unit.stage for unit in upgraded.progress.slowest("r2", 99)} == {*known, "catalog", "decide"}
    assert [unit.key for unit in upgraded.progress.slowest("r3", 99)] == [KEYS[3]]


@pytest.mark.parametrize("stage", [EMBED, FIT, PAIRS])
def test_their_outputs_are_refused(upgraded: Ledger, stage: Stage[Any]) -> None:
    scope = stage.name[0] * 16
    with pytest.raises(OutdatedRun) as caught:
        upgraded.units.of_run("r2", stage)
    for word in ("run r2", f"stage {stage.name}", "version 0", f"version {stage.version}", "run it again"):
        assert word in str(caught.value)
    with pytest.raises(OutdatedRun, match=f"stage {stage.name}, scope {scope}, unit .* run it again"):
        upgraded.units.results(stage, scope, None)
    assert upgraded.units.of_run("r1", stage) == {}  # it had not started any


def test_units_without_output_are_listed(upgraded: Ledger) -> None:
    """No output is parsed for a failed or running unit."""
    found = upgraded.units.results(EMBED, SHARED, KEYS[2:])
    assert [r.state for r in found.values()] == [UnitState.FAILED, UnitState.RUNNING]
    assert upgraded.units.tally(EMBED, SHARED, None).total == 4
    assert [e.kind for e in upgraded.units.events(EMBED, SHARED, KEYS[0])] == ["claimed", "done"]
    assert len(upgraded.units.names(EMBED, SHARED, KEYS)) == 4


def test_an_interrupted_run_repeats_its_stages(upgraded: Ledger) -> None:
    """Scopes contain the stages' versions: the old units stay as history under the old scopes."""
    assert upgraded.runs.begin("new", "d3", {}, "/out3", "/store", "host:3", 60, False) == "r3"
    scope = EMBED.scope("/store", "encoder")
    upgraded.units.put("r3", EMBED, scope, KEYS[2:], 3)
    (status,) = upgraded.progress.of("r3")
    assert (status.version, status.scope, status.planned) == (EMBED.version, scope, 2)
    assert status.tally.units[UnitState.OPEN] == 2 and upgraded.progress.failures("r3", None) == []
    ref = FileRef("/store/embeddings/x.npy", 10, "0" * 32, "0" * 8)
    output = EmbedOutput(5, ref, ref, 0, 0, 0)
    for unit in upgraded.units.claim(EMBED, scope, KEYS[2:], 9, 60, "host:3"):
        upgraded.units.finish(unit, output)
    assert {key: r.output for key, r in upgraded.units.of_run("r3", EMBED).items()} == {
        key: output for key in KEYS[2:]
    }
    with pytest.raises(OutdatedRun):
        upgraded.units.of_run("r2", EMBED)


def test_every_stage_has_a_version_that_no_old_row_has() -> None:
    assert min(stage.version for stage in STAGES) > 0


def test_outdated_stages_are_named_and_forgotten(upgraded: Ledger) -> None:
    upgraded.units.put("r2", EMBED, "new scope", KEYS[:3], 3)
    assert set(upgraded.progress.outdated("r2")) == {
        "fit", "assign", "pairs", "resolve", "write", "catalog", "decide",
    }  # fmt: skip
    upgraded.progress.forget_outdated("r2")
    assert upgraded.progress.outdated("r2") == []
    assert [status.stage for status in upgraded.progress.of("r2")] == ["embed"]
    assert upgraded.progress.outdated("r3") == ["embed"]
