"""The text and JSON output of `made status`."""

from __future__ import annotations

import json
import re
from datetime import datetime
from functools import partial

import pytest
from sqlalchemy import create_engine, text

from flows import status
from made_core.errors import CorruptShard, UserError
from made_core.ledger.ledger import Ledger
from made_core.stages import EMBED, WRITE, EmbedOutput, WriteOutput
from made_core.types import FileRef, RunState, Shard, Unit, UnitState

REF = FileRef("/store/a.npy", 10, "0" * 32, "0" * 8)


def output(samples: int) -> EmbedOutput:
    return EmbedOutput(samples, REF, REF, 0, 0, 0)


def begin(ledger: Ledger, run: str = "r1", lease: float = 60) -> None:
    ledger.runs.begin(run, "one", {"output": f"/{run}"}, f"/{run}", "/store", "host:1", lease, False)


def embedding(ledger: Ledger, *keys: str) -> list[Unit]:
    """Creates the run r1 with a shard `of-KEY` for each fingerprint; returns the claimed units."""
    begin(ledger)
    ledger.runs.put_shards("r1", [Shard(f"of-{key}", f"/{key}.tar", key, 1, 5) for key in keys])
    ledger.units.put("r1", EMBED, "scope", keys, 3)
    return ledger.units.claim(EMBED, "scope", keys, len(keys), 60, "host1")


def sql(url: str, statement: str) -> None:
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.execute(text(statement))
    engine.dispose()


def test_json_of_all_runs(ledger: Ledger) -> None:
    assert json.loads(status.document(ledger, None)) == {"runs": []}
    begin(ledger)
    ledger.runs.end("r1", "host:1", RunState.COMPLETED, {"kept": 1}, None)
    begin(ledger, "r2", lease=0)
    begin(ledger, "r3")
    newest, second, first = json.loads(status.document(ledger, None))["runs"]
    assert [r["state"] for r in (newest, second, first)] == ["running", "interrupted", "completed"]
    assert (first["id"], first["output"], first["holder"], first["replaced"]) == ("r1", "/r1", None, False)
    assert datetime.fromisoformat(first["created_at"]) <= datetime.fromisoformat(first["updated_at"])
    assert "recipe" not in first and "summary" not in first


def test_json_of_one_run(ledger: Ledger) -> None:
    a, b, c, _ = embedding(ledger, "a", "b", "c", "d")
    ledger.units.finish(a, output(50))
    ledger.units.fail(b, CorruptShard("b"), 0)
    ledger.units.renew([c], 60, [20])
    found = json.loads(status.document(ledger, "r1"))
    assert set(found) == {"run", "stages", "slowest", "failures"}
    assert found["run"]["recipe"] == {"output": "/r1"} and found["run"]["state"] == "running"
    (embed,) = found["stages"]
    assert (embed["stage"], embed["planned"], embed["samples"]) == ("embed", 4, 70)
    assert embed["units"] == {"done": 1, "running": 2, "open": 0, "failed": 1}
    assert datetime.fromisoformat(embed["started_at"]).tzinfo is not None
    (failure,) = found["failures"]
    assert (failure["shard"], failure["state"], failure["attempts"]) == ("of-b", "failed", 1)
    assert (
        failure["error"].startswith("the shard is not a complete tar")
        and "CorruptShard" in failure["traceback"]
    )
    assert {unit["key"] for unit in found["slowest"]} == {"a", "c", "d"}
    assert found["slowest"][0]["seconds"] >= found["slowest"][-1]["seconds"]
    for form in (status.show, status.document):
        with pytest.raises(UserError, match="no run r9 in the ledger; the latest are: r1"):
            form(ledger, "r9")


def test_the_times_of_what_a_run_computed(ledger: Ledger, empty_url: str) -> None:
    """Neither what it computed before an interruption nor what another run computed or left in the store."""

    def work(run: str, *keys: str) -> None:
        begin(ledger, run)
        ledger.units.put(run, EMBED, "scope", ("a", "b", "c", "d"), 3)
        for unit in ledger.units.claim(EMBED, "scope", keys, len(keys), 60, "host1", run):
            ledger.units.finish(unit, output(1))

    work("r1", "a")
    work("r2", "b")
    hour = "started_at = started_at - interval '1 h', finished_at = finished_at - interval '1 h'"
    sql(empty_url, f"UPDATE unit SET {hour}")
    assert ledger.progress.computed("r2", 60) == ledger.progress.computed("r1", 60) == {}
    work("r2", "c")
    work("r1", "d")
    sql(empty_url, "UPDATE unit SET started_at = finished_at - interval '5 s'")
    assert ledger.progress.computed("r2", 60) == {EMBED.name: pytest.approx(5)}
    assert ledger.progress.computed("r2", 7200)[EMBED.name] > 3600


def test_rate_and_eta(ledger: Ledger, empty_url: str) -> None:
    """From units of the last day only: 2 of 100 samples and half of one in 100 s."""
    keys = ("a", "b", "c", "d", "e")
    units = embedding(ledger, *keys)
    for unit in units[:3]:
        ledger.units.finish(unit, output(100))
    ledger.units.renew(units[3:4], 60, [50])
    sql(empty_url, "UPDATE unit SET started_at = now() - interval '100 s'")
    yesterday = "started_at - interval '1 day', finished_at = finished_at - interval '1 day'"
    sql(empty_url, f"UPDATE unit SET started_at = {yesterday} WHERE key = 'a'")
    (embed,) = ledger.progress.of("r1")
    assert embed.tally.samples == 350
    assert embed.rate == pytest.approx(2.5, rel=0.05)
    assert embed.eta == pytest.approx((2 * 100 - 50) / 2.5, rel=0.05)
    for unit in units[3:]:
        ledger.units.fail(unit, CorruptShard("x"), 0)
    (embed,) = ledger.progress.of("r1")
    assert embed.eta is None and embed.rate is None  # another run did these units
    sql(empty_url, "UPDATE unit SET run_id = 'r1'")
    (embed,) = ledger.progress.of("r1")
    assert embed.rate is not None and embed.rate < 1


def test_eta_of_units_without_samples(ledger: Ledger, empty_url: str) -> None:
    units = embedding(ledger, "a", "b", "c", "d")
    (embed,) = ledger.progress.of("r1")
    assert embed.eta is None  # none is done yet
    ledger.units.finish(units[0], output(0))
    sql(empty_url, "UPDATE unit SET started_at = now() - interval '10 s'")
    (embed,) = ledger.progress.of("r1")
    assert embed.eta == pytest.approx(30, rel=0.1)


def test_text_of_one_run(ledger: Ledger, capsys: pytest.CaptureFixture[str]) -> None:
    keys = [f"{n:02d}" for n in range(12)]
    for unit in embedding(ledger, *keys):
        ledger.units.fail(unit, CorruptShard("[bold]half[/bold]"), 0)
    ledger.units.put("r1", WRITE, "w", ["00000"], 3)
    (unit,) = ledger.units.claim(WRITE, "w", ["00000"], 1, 60, "host2")
    ledger.units.finish(unit, WriteOutput(7, REF, REF, REF))
    ledger.runs.end("r1", "host:1", RunState.FAILED, None, "all is lost")
    status.show(ledger, "r1")
    printed = capsys.readouterr().out
    assert printed.count("failed: embed of-") == status.SHOWN and "more units, --json lists all" in printed
    assert "[bold]half[/bold]" in printed and "error: all is lost" in printed
    assert re.search(r"failed  \d{4}-\d\d-\d\d \d\d:\d\d:\d\d \S+\n", printed), "a time with its zone"
    assert "slowest units" in printed and "host2" in printed
    assert ledger.progress.of("r1")[0].tally.units[UnitState.FAILED] == 12


def test_a_cancelled_run_has_no_error(ledger: Ledger, capsys: pytest.CaptureFixture[str]) -> None:
    text = "cancelling in Prefect: re-run or retry to resume"
    ledger.runs.begin("r1", "one", {}, "/out", "/store", "host:1", 60, False)
    ledger.runs.end("r1", "host:1", RunState.CANCELLED, None, text)
    status.show(ledger, "r1")
    printed = capsys.readouterr().out
    assert f"\n{text}\n" in printed and "error" not in printed


@pytest.mark.parametrize("columns", [20, 40, 80])
def test_paths_are_not_wrapped_in_a_narrow_terminal(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], columns: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    output = "/a/folder-with-a-long-name/and [another]/" + "deep/" * 30 + "out"
    ledger.runs.begin("r1", "one", {}, output, "/store", "host:1", 60, False)
    ledger.runs.end("r1", "host:1", RunState.COMPLETED, {}, None)
    for look in (partial(status.show, ledger, None), partial(status.show, ledger, "r1"),
                 partial(status.watch, ledger, "r1")):  # fmt: skip
        look()
        assert f"  output: {output}\n" in capsys.readouterr().out


def test_no_run(ledger: Ledger, capsys: pytest.CaptureFixture[str]) -> None:
    status.show(ledger, None)
    assert capsys.readouterr().out == "no runs in the ledger\n"


def test_watch_ends_with_the_run(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    embedding(ledger, "a")
    looks = []

    def sleep(seconds: float) -> None:
        looks.append(seconds)
        if len(looks) == 2:
            ledger.runs.end("r1", "host:1", RunState.COMPLETED, {}, None)

    monkeypatch.setattr("flows.status.time.sleep", sleep)
    status.watch(ledger, "r1")
    assert looks == [2.0, 2.0] and "completed" in capsys.readouterr().out
    status.watch(ledger, "r1")  # printed once
    begin(ledger, "r2")

    def stop(_: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("flows.status.time.sleep", stop)
    status.watch(ledger, "r2")  # Ctrl-C ends it normally
