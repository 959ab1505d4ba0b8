"""What Prefect shows of a run: names, the message of its state, and the texts of its artifacts."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import pytest
from prefect.client.schemas.objects import StateType

from flows import artifacts, naming
from flows.outcome import Outcome
from flows.refused import failed
from made_core.errors import RecipeError
from made_core.ingest.finished import Unfinished
from made_core.ledger.records import StageStatus, Tally
from made_core.report.report import Example, Group
from made_core.types import Shard, UnitState
from tasks.run_units import named
from tests.support.summaries import summary_of

SUMMARY = summary_of()

pytestmark = pytest.mark.unit


def tally(**units: int) -> Tally:
    return Tally({state: units.get(state.value, 0) for state in UnitState}, 1024)


def test_progress_by_stage() -> None:
    """One line a stage that has started: units, failures, samples, rate, ETA, and a bar."""
    embed = StageStatus(
        "embed", 1, "s", 16, tally(done=7, failed=1, running=2, open=6), None, None, 81.4, 3723.2
    )
    waits = StageStatus("fit", 2, "s", 1, tally(open=1), None, None, None, None)
    text = artifacts.progress("20261125-101010-abcd", "/out", [embed, waits])
    assert text.splitlines()[0] == "Run `20261125-101010-abcd`, output `/out`"
    bar = "█" * 10 + "░" * 10
    assert f"| embed | {bar} | 8 of 16 | 1 | 1,024 | 81 | 1:02:03 |" in text
    assert f"| fit | {'░' * 20} | 0 of 1 | 0 | 1,024 |  |  |" in text


def test_the_message_of_a_state_names_counts_shards_and_run() -> None:
    samples = f"{SUMMARY.samples.in_:,} in, {SUMMARY.samples.kept:,} kept"
    good = Outcome(SUMMARY).state()
    assert (good.type, good.name, good.message) == (
        StateType.COMPLETED, "Completed", f"{samples} (run {SUMMARY.run})",
    )  # fmt: skip
    bad = Outcome(SUMMARY, {f"{n:05}": "broken" for n in range(12)}, ["/in/00099.tar"]).state()
    assert (bad.type, bad.name) == (StateType.COMPLETED, "CompletedWithFailures")
    assert bad.message == (
        f"{samples}; failed shards: {', '.join(f'{n:05}' for n in range(10))} and 2 more; "
        f"unfinished shards, not read: 00099 (run {SUMMARY.run})"
    )
    folder = Unfinished("/in", True, {"00099": "no _stats.json", "00101": "missing"})
    for alone in (
        Outcome(SUMMARY, {"00000": "broken"}),
        Outcome(SUMMARY, refused=["/in/00099.tar"]),
        Outcome(SUMMARY, unfinished=[folder]),
    ):
        assert alone.state().name == "CompletedWithFailures"
    cut = Outcome(SUMMARY, {}, ["/in/00099.tar"], [folder]).state()
    assert (cut.name, cut.message) == (
        "CompletedWithFailures",
        f"{samples}; unfinished shards, not read: 00099, 00101; "
        f"img2dataset runs or was killed: /in has a folder _tmp (run {SUMMARY.run})",
    )
    shards = {"in": 4, "failed": 0, "out": 0, "shortfall": 0, "written": False}
    lists = Outcome(summary_of(shards=shards))
    assert lists.state().message == (
        f"{samples}; no output shards (writing.shards is false) (run {SUMMARY.run})"
    )
    assert "- Shards: 4 in, 0 failed, 0 out (writing.shards is false)" in artifacts.report_text(
        lists.summary, []
    )
    mistake = failed(RecipeError("sources:\n  missing"))
    assert (mistake.type, mistake.message) == (StateType.FAILED, "recipe: sources: missing")


def test_captions_cannot_become_markup() -> None:
    """Captions are others' text: no HTML, no links, no broken tables."""
    caption = "<script>alert(1)</script> [x](http://e) | a\n\n# b `c` ![d](e)"
    kept = Example("1", "00000", "0", None, caption, b"jpeg")
    group = Group(kept, (replace(kept, similarity=0.98765), replace(kept, jpeg=None)), 7)
    text = artifacts.report_text(SUMMARY, [group])
    assert not re.search(r"(?<!\\)<[\w/]", text) and "](http://e)" not in text
    assert "**7 samples**" in text and "data:image/jpeg;base64," in text and "removed, 0.988" in text
    [row] = [line for line in text.splitlines() if "no picture" in line]
    assert row.replace("\\|", "").count("|") == 4  # three cells
    for reason, count in SUMMARY.samples.dropped.items():
        assert f"{count:,}" in text, reason
    json.dumps(text)


@pytest.mark.parametrize(
    ("output", "name"),
    [
        ("/data/curated", "curated"),
        ("s3://bucket/a b/", "a b"),
        ("", "output"),
        (None, "output"),
        (3, "output"),
    ],
)
def test_a_flow_run_is_named_by_its_output(output: Any, name: str) -> None:
    assert naming.folder(output) == name
    assert naming.retry_of("/data/curated").startswith("retry of curated 20")


def test_a_task_run_is_named_by_its_units() -> None:
    shards = [Shard(f"{n:05}", "u", "f", 1, None) for n in range(16)]
    assert named("embed")({"shards": shards}) == "embed 00000-00015"
    assert named("embed")({"shards": shards[3:4]}) == "embed 00003"
    assert named("assign")({"keys": ["0-4", "4-8", "8-11"]}) == "assign 0-11"
    assert named("assign")({"keys": ["0-4"]}) == "assign 0-4"
    assert named("write")({"keys": ["00000", "00001"]}) == "write 00000-00001"
