"""What a source may hold: copies, damaged shards, odd samples, placeholders, nothing."""

from __future__ import annotations

import shutil
from contextlib import closing
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from flows.why import explain
from made_core.errors import RecipeError, SourceError, TooManyFailures
from made_core.ledger.ledger import Ledger
from made_core.reasons import PLACEHOLDER
from made_core.types import RunState, UnitState
from tests.support import checks
from tests.support.checks import tars
from tests.support.factories import make_shard, members, stats
from tests.support.runs import Curate


def test_two_folders_with_equal_names_one_a_copy(curate: Curate, sample: Path, tmp_path: Path) -> None:
    shutil.copytree(sample / "shards", tmp_path / "copy")
    summary = curate(sample / "shards", tmp_path / "copy", output=tmp_path / "output")
    samples = summary["samples"]
    assert samples["in"] == 800 and samples["dropped"]["repeated_uid"] == 400
    rows = checks.decisions(tmp_path / "output")
    kept = [r["uid"] for r in rows if r["kept"]]
    assert len(kept) == len(set(kept)) == samples["kept"]
    assert checks.representatives_stand(tmp_path / "output", tmp_path / "output" / "store") > 400
    assert len({r["shard"] for r in rows}) == 8
    accounts = pq.read_table(tmp_path / "output" / "accounts.parquet").to_pylist()
    assert sum(a["samples"] for a in accounts) == 800 and len(accounts) == 8


def test_damaged_shards_fail(servers: str, curate: Curate, sample: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(sample / "shards", source)
    whole = (source / "00001.tar").read_bytes()
    (source / "00001.tar").write_bytes(whole[: len(whole) // 2])
    (source / "00002.tar").write_bytes(b"")
    (source / "00003.tar").write_bytes(b"no tar at all" * 1000)
    summary = curate(source, output=tmp_path / "output")
    assert summary["state"] == RunState.COMPLETED_WITH_FAILURES.value
    assert summary["shards"]["failed"] == 3 and summary["samples"]["in"] > 80
    checks.accounts_balance(tmp_path / "output", {"00000": source / "00000.tar"})
    ledger = Ledger.open(servers)
    failures = {u.shard: u for u in ledger.progress.failures(summary["run"], 10)}
    ledger.close()
    assert set(failures) == {"00001", "00002", "00003"}
    assert all(u.state is UnitState.FAILED and u.attempts == 1 and u.error for u in failures.values())
    accounts = {a["shard"]: a for a in pq.read_table(tmp_path / "output/accounts.parquet").to_pylist()}
    assert "empty" in accounts["00002"]["error"] and accounts["00002"]["state"] == "failed"
    for name in ("00001", "00002", "00003"):
        (source / f"{name}.tar").unlink()
    again = curate(source, output=tmp_path / "output")
    assert again["state"] == "completed" and again["shards"]["failed"] == 0  # not the old summary
    for name in ("00001", "00002", "00003"):
        (source / f"{name}.tar").write_bytes(b"")
    with pytest.raises(TooManyFailures, match="3 of 4"):
        curate(source, output=tmp_path / "strict", work={"max_failed_share": 0.5})


def test_everything_odd_is_a_row(curate: Curate, tmp_path: Path) -> None:
    """Unreadable images, bad json, missing captions, filters, a shortfall: every sample is accounted for."""
    good = [(f"{n:08d}", members(n, f"caption number {n}", uid=f"{n:032x}")) for n in range(40)]
    odd = [
        ("00000100", {"jpg": b"no image", "json": b"{}", "txt": b"x"}),
        ("00000101", {"json": b"{}", "txt": b"only text"}),
        ("00000102", members(102) | {"json": b"{no json"}),
        ("00000103", members(103) | {"txt": b"\xff\xfe"}),
        ("00000104", {"jpg": members(104)["jpg"]}),
    ]
    make_shard(tmp_path / "in", "00000", [*good, *odd])
    (tmp_path / "in" / "00000_stats.json").write_bytes(stats(50))
    summary = curate(
        tmp_path / "in", output=tmp_path / "out", filters={"min_words": 2}, dedup={"keep": "largest"}
    )
    samples = summary["samples"]
    assert samples["in"] == 45 and samples["unreadable"] == 2
    assert samples["dropped"]["few_words"] == 2  # the one without txt, the one with two wrong bytes
    assert summary["shards"]["shortfall"] == 5 and summary["keep_npy"] is None
    rows = {r["key"]: r for r in checks.decisions(tmp_path / "out")}
    assert rows["00000101"]["reason"] == "unreadable" and "json, txt" in rows["00000101"]["error"]
    checks.accounts_balance(tmp_path / "out", {"00000": tmp_path / "in" / "00000.tar"})
    checks.bytes_equal(tmp_path / "out", {"00000": tmp_path / "in" / "00000.tar"})


def test_a_placeholder(
    curate: Curate, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One image with ten captions, in two shards: one sample is kept and represents the others."""
    for name, start in (("00000", 0), ("00001", 5)):
        same = [(f"{n:08d}", members(0, f"shoe {n}", uid=f"{n:032x}")) for n in range(start, start + 5)]
        other = [(f"{n:08d}", members(n, uid=f"{n:032x}")) for n in range(start + 100, start + 105)]
        make_shard(tmp_path / "in", name, [*same, *other])
    summary = curate(tmp_path / "in", output=tmp_path / "out")
    assert summary["placeholders"] == {"images": 1, "samples": 10}
    assert summary["samples"]["dropped"]["placeholder"] == 9
    shown = {r["uid"]: r for r in checks.decisions(tmp_path / "out") if int(r["uid"], 16) < 10}
    (kept,) = (r["uid"] for r in shown.values() if r["kept"])
    gone = [r for r in shown.values() if r["uid"] != kept]
    assert {(r["reason"], r["represented_by"], r["similarity"]) for r in gone} == {("placeholder", kept, 1.0)}
    checks.accounts_balance(tmp_path / "out", tars(tmp_path / "in"))
    checks.representatives_stand(tmp_path / "out", tmp_path / "out" / "store")
    assert PLACEHOLDER.meaning in (tmp_path / "out" / "report.html").read_text()
    monkeypatch.setenv("COLUMNS", "300")
    capsys.readouterr()
    explain(str(tmp_path / "out"), gone[0]["uid"])
    told = capsys.readouterr().out
    assert f"dropped: placeholder, {PLACEHOLDER.meaning} " in told and kept in told


def test_no_readable_shard(curate: Curate, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    with pytest.raises(SourceError, match="no shard"):
        curate(tmp_path / "in", output=tmp_path / "out")


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"dedup": {"keep": "clip_score"}}, "no sample's json has a number in clip_l14_similarity_score"),
        ({"filters": {"min_clip_score": 0.2}}, "filters.min_clip_score reads CLIP scores"),
        ({"dedup": {"keep": "column", "keep_column": "score"}}, "no sample's json has a number in score"),
    ],
)
def test_a_number_that_no_sample_has(
    servers: str,
    curate: Curate,
    sample: Path,
    first: tuple[Path, dict[str, Any]],
    tmp_path: Path,
    parts: dict[str, Any],
    message: str,
) -> None:
    """The run ends before anything is clustered."""
    with pytest.raises(RecipeError, match=message):
        curate(sample / "shards", output=tmp_path / "out", store=str(first[0] / "store"), **parts)
    with closing(Ledger.open(servers)) as ledger:
        run = ledger.runs.of_output(str(tmp_path / "out"))
        assert run is not None and run.state is RunState.FAILED and message in str(run.error)
        assert [status.stage for status in ledger.progress.of(run.id)] == ["embed"]
