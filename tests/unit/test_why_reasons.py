"""`made why` on hand-written outputs: known reasons are explained, unknown ones are shown by name."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from flows.why import explain
from made_core import filters
from made_core.output.decision_tables import SCHEMA
from made_core.reasons import Reason


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal wide enough not to wrap lines."""
    monkeypatch.setenv("COLUMNS", "300")


def explained(
    folder: Path, reason: str, capsys: pytest.CaptureFixture[str], bounds: dict[str, int] | None = None
) -> str:
    """The output for a sample that was dropped for `reason`."""
    (folder / "decisions").mkdir()
    row = {"uid": "u", "shard": "00000", "key": "k", "row": 0, "kept": False, "reason": reason}
    pq.write_table(pa.Table.from_pylist([row], schema=SCHEMA), folder / "decisions" / "00000.parquet")
    pq.write_table(pa.table({"shard": ["00000"], "url": ["in/00000.tar"]}), folder / "accounts.parquet")
    summary = {"extends": None} if bounds is None else {"extends": None, "filters": bounds}
    (folder / "summary.json").write_text(json.dumps(summary))
    explain(str(folder), "u")
    return capsys.readouterr().out


@pytest.mark.parametrize("reason", filters.REASONS, ids=lambda r: r.name)
def test_every_reason_is_explained(
    reason: Reason, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert f"dropped: {reason.name}, {reason.meaning} " in explained(tmp_path, reason.name, capsys)


def test_the_bound_of_a_filter_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = explained(tmp_path, "small_side", capsys, {"min_side": 200})
    assert "the shorter side of the original image is below filters.min_side (200) " in text


def test_a_reason_of_another_version_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "dropped: own_filter " in explained(tmp_path, "own_filter", capsys)
