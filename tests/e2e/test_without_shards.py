"""`writing.shards: false`: everything but the output shards, which a later run adds."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from flows import review, status, unchanged
from flows.cli import terminal
from flows.why import explain
from made_core.errors import OutputError
from made_core.ledger.ledger import Ledger
from tests.support import checks
from tests.support.checks import outcome, tars
from tests.support.page import Page
from tests.support.runs import Curate, events

NONE = {"shards": False}
First = tuple[Path, dict[str, Any]]


def without_shards(found: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in found.items() if not name.startswith("shards/")}


def computed(run: dict[str, Any]) -> set[str]:
    """The stages of which a run has computed units itself."""
    return {stage for stage, seconds in run["seconds_by_stage"].items() if seconds is not None}


def test_keep_lists_then_shards_then_keep_lists(
    servers: str, curate: Curate, sample: Path, first: First, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In one output. Only `write` is computed for the shards, and nothing for the way back."""
    output, whole = tmp_path / "output", outcome(first[0])
    places: dict[str, Any] = {"output": output, "store": str(first[0] / "store")}
    lists = curate(sample / "shards", **places, writing=NONE)
    assert outcome(output) == without_shards(whole) and not (output / "shards").exists()
    assert (output / "accounts.parquet").read_bytes() == (first[0] / "accounts.parquet").read_bytes()
    checks.accounts_balance(output, tars(sample / "shards"))
    assert lists["samples"] == first[1]["samples"]
    assert lists["shards"] == first[1]["shards"] | {"out": 0, "written": False}
    assert "write" not in lists["seconds_by_stage"]
    claims = events(servers, lists["run"])
    assert "write" not in claims

    stamps = {p: p.stat().st_mtime_ns for p in output.rglob("*") if p.is_file()}
    with monkeypatch.context() as patched:
        patched.setattr(unchanged, "result", lambda url, request: None)  # else nothing starts
        assert curate(sample / "shards", **places, writing=NONE) == lists
    assert {p: p.stat().st_mtime_ns for p in output.rglob("*") if p.is_file()} == stamps
    (output / "keep.npy").unlink()
    curate(sample / "shards", **places, writing=NONE)
    assert outcome(output) == without_shards(whole)

    with pytest.raises(OutputError, match="--replace"):
        curate(sample / "shards", **places)
    full = curate(sample / "shards", **places, replace=True)
    assert outcome(output) == whole and full["shards"] == first[1]["shards"]
    assert computed(full) == {"write"} and full["decisions_digest"] == lists["decisions_digest"]
    assert events(servers, full["run"]) == claims | {"write": full["shards"]["out"]}
    checks.bytes_equal(output, tars(sample / "shards"))

    again = curate(sample / "shards", **places, writing=NONE, replace=True)
    assert outcome(output) == without_shards(whole) and again["shards"] == lists["shards"]
    assert not any(p.is_file() for p in (output / "shards").rglob("*"))
    assert computed(again) == set() and events(servers, again["run"]) == claims

    assert computed(curate(sample / "shards", **places, replace=True)) == {"write"}
    assert outcome(output) == whole


def test_what_is_said_and_asked_of_a_run_without_shards(
    servers: str,
    curate: Curate,
    sample: Path,
    first: First,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The report, the terminal, `made why`, retry, sweep and review."""
    from flows.retry import retry
    from flows.sweep import sweep
    from made_core.output.summary import read

    monkeypatch.setenv("COLUMNS", "300")
    output = tmp_path / "output"
    run = curate(sample / "shards", output=output, store=str(first[0] / "store"), writing=NONE, quiet=False)
    assert "write: no output shards (writing.shards is false)" in capsys.readouterr().err
    found = read(str(output))
    assert found is not None
    terminal.table(found)
    assert "4 in, 0 failed, 0 out (writing.shards is false);" in capsys.readouterr().out
    text = Page((output / "report.html").read_text()).text
    assert "the kept samples are listed in keep.parquet and keep.npy." in text
    assert "Out none: writing.shards is false" in text and "in the output" not in text

    gone = next(r for r in checks.decisions(output) if r["represented_by"])
    for uid in (gone["uid"], gone["represented_by"]):
        explain(str(output), uid)
        told = capsys.readouterr().out
        assert "in its keep lists only (writing.shards is false)" in told and ".tar, key" in told
        assert "not available" not in told and f"{output}/shards" not in told

    before = outcome(output)
    with closing(Ledger.open(servers)) as ledger:
        assert sweep(ledger, run["run"], [run["dedup"]["eps"]]).steps[0].kept == run["samples"]["kept"]
        review.write(ledger, run["run"], [run["dedup"]["eps"]], 4)
        status.show(ledger, run["run"])
    assert (output / "review.html").exists()
    assert f"{run['samples']['kept']} kept, no shards written  " in capsys.readouterr().out
    assert retry(run["run"]).document() == run
    next((output / "decisions").glob("*.parquet")).unlink()
    retry(run["run"])
    assert outcome(output) == before


def test_a_corpus_grows_from_a_run_without_shards(curate: Curate, sample: Path, tmp_path: Path) -> None:
    """The field is taken from the extended run unless it is given."""
    given = tars(sample / "shards")
    settings = {"audit": {"queries": 0}, "clusters": {"k": 4}}
    one = curate(given["00000"], given["00001"], output=tmp_path / "one", writing=NONE, **settings)
    two = curate(given["00002"], output=tmp_path / "two", extends=one["run"])
    three = curate(given["00003"], output=tmp_path / "three", extends=two["run"], writing={"shards": True})
    assert [run["shards"]["written"] for run in (one, two, three)] == [False, False, True]
    assert three["extends"]["kept"] == one["samples"]["kept"] + two["samples"]["kept"]
    assert checks.bytes_equal(tmp_path / "three", {"00003": given["00003"]}) == three["samples"]["kept"]
