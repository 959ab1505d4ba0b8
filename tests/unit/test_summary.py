"""The summary: one model, parsed strictly, compared without the fields that vary."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from flows.summarise import counted
from made_core.errors import DamagedFile
from made_core.output import summary
from made_core.output.summary import Summary
from tests.support.summaries import summary_of


def test_it_is_read_back_from_its_text(tmp_path: Path) -> None:
    given = summary_of(recall={
        "queries": 10, "with_duplicates": 2, "pairs": 4, "found": 3, "estimate": 0.75, "low": 0.2,
        "high": 0.97, "probes": 1,
    })  # fmt: skip
    assert summary.read(str(tmp_path)) is None
    (tmp_path / "summary.json").write_text(given.json_text())
    assert summary.read(str(tmp_path)) == given
    assert summary.parsed(given.document(), "r") == given
    assert json.loads(given.json_text())["samples"]["in"] == given.samples.in_


def test_a_summary_of_another_version_is_refused(tmp_path: Path) -> None:
    (tmp_path / "summary.json").write_text(json.dumps(summary_of().document() | {"plan": "0"}))
    assert summary.read(str(tmp_path)) is None
    with pytest.raises(DamagedFile, match="run r: its summary"):
        summary.parsed({"plan": "0"}, "r")


def test_times_do_not_change_the_output() -> None:
    given = summary_of()
    assert given.same_output(summary_of(seconds=1.0, seconds_by_stage={}, started="later"))
    assert not given.same_output(summary_of(run="another"))


def test_shards_that_were_not_written_are_not_lost_ones() -> None:
    counts = {"in": 1280, "failed": 2, "out": 0, "shortfall": 17}
    assert summary_of(shards=counts).shards.sentence == "1,280 in, 2 failed, 0 out"
    found = summary_of(shards={**counts, "written": False})
    assert found.shards.sentence == "1,280 in, 2 failed, 0 out (writing.shards is false)"
    assert not summary.has_shards(found.document())
    assert summary.has_shards(summary_of(shards=counts).document()) and summary.has_shards({})


def test_every_field_has_a_description() -> None:
    assert all(field.description for field in Summary.model_fields.values())


def test_a_note_counts_one_as_one() -> None:
    assert [counted(n, "shard") for n in (0, 1, 2000)] == ["0 shards", "1 shard", "2,000 shards"]
