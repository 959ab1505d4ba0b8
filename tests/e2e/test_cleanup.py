"""A run removes and reports the files that dead attempts left in its store and its output."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

from flows import unchanged
from made_core.ledger import cleanup
from made_core.stages import STAGES
from tests.support.factories import make_shard, members
from tests.support.runs import Curate

FOLDERS = {stage.folder for stage in STAGES if not stage.in_output}  # of the store


def attempted(url: str) -> None:
    """Records for every unit a past claim with a token of zeros."""
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.execute(
            text(
                "INSERT INTO event (unit_id, attempt, kind, token) "
                "SELECT id, 1, 'claimed', '000000' FROM unit"
            )
        )
    engine.dispose()


def test_a_run_cleans_up(
    servers: str,
    curate: Curate,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for shard in range(2):
        make_shard(
            tmp_path / "in", f"{shard:05d}", [(f"{n:08d}", members(40 * shard + n)) for n in range(40)]
        )
    out = tmp_path / "out"
    parts = {"clusters": {"k": 4}, "audit": {"queries": 10}}
    summary = curate(tmp_path / "in", output=out, **parts)
    folders = {p.name for p in (out / "store").iterdir()}
    assert folders == {*FOLDERS, "corpora"} - {"captions"}  # the encoder has none
    attempted(servers)
    stranger = next(out.glob("store/embeddings/*/*.npy"))  # of another ledger over the same store
    stranger = stranger.with_name(stranger.name.split(".")[0] + ".1-ffffff.npy")
    stranger.write_bytes(b"theirs")
    before = {p for p in out.rglob("*") if p.is_file()}
    dead = set()
    for path in before - {stranger}:
        if (out / "store") in path.parents and path.parent.parent.name in FOLDERS:
            key, _, rest = path.name.split(".", 2)
            dead |= {path.with_name(f"{key}.1-000000.{rest}"), path.with_name(f".{path.name}.0123abcd.part")}
    assert len(dead) == 2 * 22
    dead |= {
        out / ".parts" / "s" / "1-000000" / "shards" / "00000000.tar",
        out / ".report.html.0123abcd.part",
    }
    for path in dead:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"left")
    capsys.readouterr()
    monkeypatch.setattr(unchanged, "result", lambda url, request: None)  # else nothing starts
    assert curate(tmp_path / "in", output=out, quiet=False, **parts) == summary
    assert {p for p in out.rglob("*") if p.is_file()} == before
    assert "removed 46 files (184 bytes)" in capsys.readouterr().err


def test_a_failed_cleanup_does_not_fail_the_run(
    curate: Curate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_shard(tmp_path / "in", "00000", [(f"{n:08d}", members(n)) for n in range(10)])

    def refuse(*_: object) -> None:
        raise OSError("the disk refuses")

    monkeypatch.setattr(cleanup, "clean_stage", refuse)
    summary = curate(tmp_path / "in", output=tmp_path / "out", quiet=False)
    assert summary["state"] == "completed"
    assert "the disk refuses" in capsys.readouterr().err
