"""`retry` recomputes only what failed, and the output equals that of a run without failures."""

from __future__ import annotations

import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from made_core.errors import Permanent, TooManyFailures, UserError
from made_core.ingest import discovery
from made_core.ledger.ledger import Ledger
from made_core.sample.write import write_sample
from made_core.stages import EMBED
from made_core.types import RunState
from tests.support import checks
from tests.support.checks import outcome
from tests.support.runs import Curate


def retry(run: str, *names: str) -> dict[str, Any]:
    from flows.retry import retry as flow

    return flow(run, names).document()


def happened(url: str, run: str) -> dict[str, list[str]]:
    """The events of the embed unit of each shard of the run."""
    ledger = Ledger.open(url)
    try:
        (scope,) = [s.scope for s in ledger.progress.of(run) if s.stage == EMBED.name]
        return {
            s.id: [e.kind for e in ledger.units.events(EMBED, scope, s.fingerprint)]
            for s in ledger.runs.shards(run)
        }
    finally:
        ledger.close()


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four shards of 30 images each."""
    folder = tmp_path_factory.mktemp("retry")
    write_sample(folder, samples=120, shards=4, seed=5)
    return folder / "shards"


@pytest.fixture(scope="module")
def whole(servers: str, source: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The output of an undamaged run with its own output and store."""
    from flows.curate import curate as flow
    from made_core.recipe_file import validate

    output = tmp_path_factory.mktemp("whole") / "output"
    flow(validate({"sources": [str(source)], "output": str(output)}, "the test"))
    return outcome(output)


@pytest.fixture
def restored(source: Path, tmp_path: Path) -> Iterator[Path]:
    """The shards, to be damaged in place (rows hold the URL); restored for the next test."""
    saved = Path(shutil.copytree(source, tmp_path / "saved"))
    yield source
    shutil.rmtree(source)
    shutil.copytree(saved, source)


def test_a_fixed_tar(
    servers: str, curate: Curate, restored: Path, whole: dict[str, bytes], tmp_path: Path
) -> None:
    good = (restored / "00001.tar").read_bytes()
    (restored / "00001.tar").write_bytes(good[: len(good) // 2])
    output = tmp_path / "out"
    first = curate(restored, output=output)
    assert first["state"] == RunState.COMPLETED_WITH_FAILURES.value
    before = happened(servers, first["run"])
    assert before["00001"] == ["claimed", "failed"]
    with pytest.raises(UserError, match=r"shard 00002 did not fail in run .*; failed \(1\): 00001"):
        retry(first["run"], "00001", "00002")
    assert happened(servers, first["run"]) == before

    (restored / "00001.tar").write_bytes(good)
    second = retry(first["run"], "00001")
    assert (second["run"], second["state"]) == (first["run"], RunState.COMPLETED.value)
    assert outcome(output) == whole
    # The whole tar is another shard than the truncated one, whose failure stays in the ledger.
    assert happened(servers, first["run"]) == before | {"00001": ["claimed", "done"]}
    checks.accounts_balance(output, {t.stem: t for t in restored.glob("*.tar")})

    stamps = {p: p.stat().st_mtime_ns for p in output.rglob("*") if p.is_file()}
    assert retry(first["run"]) == second
    assert {p: p.stat().st_mtime_ns for p in output.rglob("*") if p.is_file()} == stamps


def test_damage_that_keeps_the_fingerprint(
    curate: Curate, servers: str, restored: Path, whole: dict[str, bytes], tmp_path: Path
) -> None:
    """A tar of the same size, head and tail is the same unit: it is reopened."""
    found, path = discovery.discover([str(restored)], True), restored / "00002.tar"
    good = path.read_bytes()
    with tarfile.open(path) as tar:
        header = min((m.offset for m in tar), key=lambda at: abs(at - len(good) // 2))
    path.write_bytes(good[:header] + b"\xff" * 512 + good[header + 512 :])
    assert discovery.discover([str(restored)], True) == found
    output = tmp_path / "out"
    run = curate(restored, output=output)["run"]
    before = happened(servers, run)
    assert before["00002"] == ["claimed", "failed"]
    path.write_bytes(good)
    assert retry(run)["state"] == RunState.COMPLETED.value
    assert outcome(output) == whole
    again = ["claimed", "failed", "reopened", "claimed", "done"]
    assert happened(servers, run) == before | {"00002": again}


def test_a_tar_that_was_missing(
    servers: str, curate: Curate, restored: Path, whole: dict[str, bytes], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Missing between discovery and embedding: the run fails; once it is back, the same unit is retried."""
    discover, tar, away = discovery.discover, restored / "00003.tar", tmp_path / "away"

    def then_gone(*args: Any) -> discovery.Discovery:
        found = discover(*args)
        tar.rename(away)
        return found

    output = tmp_path / "out"
    with monkeypatch.context() as patch, pytest.raises(TooManyFailures, match="00003"):
        patch.setattr(discovery, "discover", then_gone)
        curate(restored, output=output, work={"max_failed_share": 0})
    ledger = Ledger.open(servers)
    run = ledger.runs.of_output(str(output))
    ledger.close()
    assert run is not None and run.state is RunState.FAILED
    before = happened(servers, run.id)
    assert before["00003"] == ["claimed", "failed"]

    away.rename(tar)
    assert retry(run.id)["state"] == RunState.COMPLETED.value
    assert outcome(output) == whole
    assert happened(servers, run.id) == before | {
        "00003": ["claimed", "failed", "reopened", "claimed", "done"]
    }


def test_a_failure_after_embedding(
    servers: str, curate: Curate, restored: Path, whole: dict[str, bytes], tmp_path: Path
) -> None:
    """Bytes that change after embedding fail the write stage; once restored, the retry succeeds."""
    store, output, path = str(tmp_path / "store"), tmp_path / "out", restored / "00001.tar"
    curate(restored, output=tmp_path / "other", store=store, dedup={"eps": 0.001})
    good = path.read_bytes()
    bad = bytearray(good)
    with tarfile.open(path) as tar:
        for member in tar:
            if discovery.EDGE < member.offset_data < len(good) - discovery.EDGE:
                bad[member.offset_data] ^= 0xFF
    path.write_bytes(bad)
    with pytest.raises(Permanent, match=r"the bytes of sample .* have changed"):
        curate(restored, output=output, store=store)
    ledger = Ledger.open(servers)
    run = ledger.runs.of_output(str(output))
    ledger.close()
    assert run is not None and run.state is RunState.FAILED
    before = happened(servers, run.id)
    with pytest.raises(Permanent, match=r"the bytes of sample .* have changed"):
        retry(run.id)
    path.write_bytes(good)
    assert retry(run.id)["state"] == RunState.COMPLETED.value
    assert outcome(output) == whole and happened(servers, run.id) == before


def test_only_the_named_shard_is_retried(
    servers: str, curate: Curate, restored: Path, tmp_path: Path
) -> None:
    """Two shards that stay damaged: one is retried, and the output does not change."""
    for name in ("00001", "00002"):
        (restored / f"{name}.tar").write_bytes(b"no tar at all" * 1000)
    output = tmp_path / "out"
    first = curate(restored, output=output)
    before, files = happened(servers, first["run"]), outcome(output)
    assert retry(first["run"], "00002") == first
    again = ["claimed", "failed", "reopened", "claimed", "failed"]
    assert happened(servers, first["run"]) == before | {"00002": again}
    assert outcome(output) == files


def test_runs_that_cannot_be_retried(servers: str, curate: Curate, restored: Path, tmp_path: Path) -> None:
    summary = curate(restored, output=tmp_path / "out")
    with pytest.raises(
        UserError,
        match=r"no run nonsense in the ledger, by id, output or flow run.*: .*" + summary["run"],
    ):
        retry("nonsense")
    with pytest.raises(UserError, match=r"shard 00000 did not fail .*; failed \(0\): none"):
        retry(summary["run"], "00000")
    curate(restored, output=tmp_path / "out", replace=True, dedup={"eps": 0.01})
    with pytest.raises(UserError, match=r"its output .* belongs to run"):
        retry(summary["run"])


def test_fail_fast(servers: str, curate: Curate, restored: Path, tmp_path: Path) -> None:
    """The run stops at the first failed shard; once the shard is fixed, a retry completes the run."""
    good = (restored / "00000.tar").read_bytes()
    (restored / "00000.tar").write_bytes(b"no tar at all")
    work = {"fail_fast": True, "shards_per_task": 1, "tasks_in_flight": 1}
    with pytest.raises(TooManyFailures, match=r"work.fail_fast is set and a unit failed: .*00000.tar"):
        curate(restored, output=tmp_path / "out", work=work)
    ledger = Ledger.open(servers)
    run = ledger.runs.of_output(str(tmp_path / "out"))
    ledger.close()
    assert run is not None and run.state is RunState.FAILED and "fail_fast" in (run.error or "")
    kinds = happened(servers, run.id)
    failed = next(name for name, seen in kinds.items() if "failed" in seen)
    assert kinds[failed] == ["claimed", "failed"] and [] in kinds.values()
    (restored / "00000.tar").write_bytes(good)
    assert retry(run.id)["state"] == RunState.COMPLETED.value
