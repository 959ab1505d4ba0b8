"""The ledger's tables: created once, refused where they are another's, with constraints that hold."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import create_engine, inspect, text
from sqlalchemy.exc import IntegrityError

from made_core.errors import (
    DatabaseError,
)
from made_core.ledger.ledger import Ledger
from made_core.ledger.upgrade import VERSION_TABLE
from made_core.stages import PAIRS
from tests.support.ledgers import (
    NAP,
    STAGE,
    begin,
    output,
    sql,
)


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
