"""`made sweep` decides from the stored pairs as runs with those eps do."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, text

from made_core.ledger.ledger import Ledger
from tests.support import checks
from tests.support.runs import Curate


def sweep(url: str, run: str, *eps: float) -> list[dict[str, Any]]:
    from flows.sweep import sweep as look

    with closing(Ledger.open(url)) as ledger:
        return [step.model_dump() for step in look(ledger, run, eps).steps]


def events(url: str) -> int:
    engine = create_engine(url)
    with engine.connect() as connection:
        count: int = connection.execute(text("SELECT count(*) FROM event")).scalar_one()
    engine.dispose()
    return count


@pytest.mark.parametrize("crowded", [False, True])
def test_a_sweep_equals_runs(
    servers: str, curate: Curate, sample: Path, tmp_path: Path, crowded: bool
) -> None:
    """From stored pairs, and with a crowded cluster whose pairs are not stored."""
    parts = {"store": str(tmp_path / "store"), "clusters": {"k": 4}, "audit": {"queries": 0}}
    parts |= {"work": {"pairs_per_sample": 0}} if crowded else {}
    run = curate(sample / "shards", output=tmp_path / "out", **parts)
    before = events(servers)
    steps = sweep(servers, run["run"], 0.2, 0.03, run["dedup"]["eps"], 0.03)
    assert events(servers) == before
    assert [s["eps"] for s in steps] == [0.03, 0.12, 0.2]
    assert steps[1]["kept"] == run["samples"]["kept"]
    assert steps[1]["near_duplicates"] == run["samples"]["dropped"]["near_duplicate"]
    assert steps[0]["kept"] > steps[1]["kept"] > steps[2]["kept"]
    other = curate(sample / "shards", output=tmp_path / "other", dedup={"eps": 0.03}, **parts)
    assert steps[0]["kept"] == other["samples"]["kept"]
    stages = other["seconds_by_stage"]
    shared = ("embed", "fit", "assign", "pairs")
    assert all(run["seconds_by_stage"][name] > 0 for name in shared)
    assert all(stages[name] is None for name in shared), "another eps shares everything up to the pairs"
    assert 0 < sum(seconds for seconds in stages.values() if seconds) <= other["seconds"]
    report = (tmp_path / "other" / "report.html").read_text()
    assert report.count(">reused</td>") == sum(seconds is None for seconds in stages.values())
    page = (tmp_path / "out" / "sweep.html").read_text()
    assert page.count("data:image/jpeg") >= 4 and "<polyline" in page and run["run"] in page
    assert json.loads((tmp_path / "out" / "sweep.json").read_text())["steps"] == steps
    checks.keep_lists(tmp_path / "out")
