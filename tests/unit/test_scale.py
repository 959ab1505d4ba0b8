"""benchmarks.scale on few rows: the split into units changes nothing, the crowd is one cluster."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import scale, scale_run


@pytest.mark.parametrize("crowd", [False, True])
def test_the_split_changes_nothing(tmp_path: Path, crowd: bool) -> None:
    scale.store(tmp_path, 5000, 48, 0, crowd, part=900)
    whole = scale_run.whole(tmp_path, crowd, shards=2)
    assert whole["k"] > 1 and 4000 < whole["kept"] < 5000
    assert whole["pairs"] >= 400
    if crowd:
        assert whole["largest"] >= 500
    (tmp_path / "pairs").rename(tmp_path / "before")
    cut = scale_run.whole(tmp_path, crowd, shards=2, cost=2e5)
    assert len(list((tmp_path / "pairs").glob("*of*"))) > 4
    volatile = ("seconds", "cpu_seconds", "peak_mib")
    assert {k: v for k, v in cut.items() if k not in volatile} == {
        k: v for k, v in whole.items() if k not in volatile
    }
