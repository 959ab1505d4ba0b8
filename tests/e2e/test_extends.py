"""Extending a corpus: earlier kept samples stay; new shards are compared with them and written alone."""

from __future__ import annotations

import shutil
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from made_core.errors import OutputError, RecipeError, SourceError, UserError
from made_core.ledger.ledger import Ledger
from made_core.sample.write import write_sample
from made_core.stages import AUDIT, CAPTIONS, DRAW, STAGES
from made_core.types import RunState
from tests.support import checks
from tests.support.runs import Curate, made_here

SETTINGS = {"clusters": {"k": 4, "probes": 2}, "writing": {"samples_per_shard": 50}}


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five shards of 60 images with duplicates within and across shards."""
    folder = tmp_path_factory.mktemp("growing")
    write_sample(folder, samples=300, shards=5, seed=11)
    return folder / "shards"


def some(shards: Path, folder: Path, numbers: range) -> Path:
    """A folder with a few of the shards."""
    folder.mkdir(parents=True)
    for n in numbers:
        for path in shards.glob(f"{n:05d}*"):
            shutil.copy2(path, folder)
    return folder


def content(folder: Path) -> dict[str, bytes]:
    """All files of an output except the store."""
    return {
        str(p.relative_to(folder)): p.read_bytes()
        for p in sorted(folder.rglob("*"))
        if p.is_file() and "store" not in p.relative_to(folder).parts
    }


def embedded(url: str, run: str) -> list[str]:
    """The shards that a run embedded itself, according to the ledger."""
    ledger = Ledger.open(url)
    try:
        assert [s.stage for s in ledger.progress.of(run)] == [
            s.name for s in STAGES if s not in (CAPTIONS, DRAW, AUDIT)
        ]
        return [s.id for s in ledger.runs.shards(run)]
    finally:
        ledger.close()


def test_three_generations(curate: Curate, servers: str, shards: Path, tmp_path: Path) -> None:
    outputs = [tmp_path / name for name in ("one", "two", "three")]
    settings = SETTINGS | {"audit": {"queries": 0}}
    one = curate(some(shards, tmp_path / "a", range(2)), output=outputs[0], **settings)
    before = content(outputs[0])
    groups = sorted((outputs[0] / "store" / "cluster_rows").glob("*/*.rows.npy"))  # of the first generation
    # The second run gets all shards so far and skips those of the first.
    two = curate(some(shards, tmp_path / "b", range(4)), output=outputs[1], extends=one["run"])
    three = curate(some(shards, tmp_path / "c", range(3, 5)), output=outputs[2], extends=two["run"])
    assert content(outputs[0]) == before
    assert embedded(servers, two["run"]) == ["00002", "00003"]
    assert embedded(servers, three["run"]) == ["00004"]
    assert one["extends"] is None
    assert {name: two["extends"][name] for name in ("run", "output", "generation", "samples", "kept")} == {
        "run": one["run"], "output": str(outputs[0]), "generation": 2, "samples": one["samples"]["in"],
        "kept": one["samples"]["kept"],
    }  # fmt: skip
    assert three["extends"]["samples"] == one["samples"]["in"] + two["samples"]["in"]
    assert three["extends"]["generation"] == 3
    assert three["extends"]["kept"] == one["samples"]["kept"] + two["samples"]["kept"]
    assert three["extends"]["drift"]["growth"] > 2
    for summary in (two, three):
        assert summary["clusters"]["k"] == one["clusters"]["k"] and summary["clusters"]["probes"] == 2
        assert summary["promise"]["broken"] == 0 < summary["promise"]["checked"]
    tars = {f"{n:05d}": shards / f"{n:05d}.tar" for n in range(5)}
    for output, numbers in zip(outputs, (range(2), range(2, 4), range(4, 5)), strict=True):
        mine = {f"{n:05d}": tars[f"{n:05d}"] for n in numbers}
        checks.accounts_balance(output, mine)
        checks.bytes_equal(output, mine)
        checks.keep_lists(output)
    checked, across = promised(outputs, tmp_path / "one" / "store")
    assert checked > 50 and across > 10
    lost_and_changed(curate, servers, shards, tmp_path, one, two, groups[0])


def lost_and_changed(
    curate: Curate,
    url: str,
    shards: Path,
    folder: Path,
    one: dict[str, Any],
    two: dict[str, Any],
    lost: Path,
) -> None:
    """A missing file of an earlier generation is recomputed by its own run; if that run changes, runs
    that extend it are refused."""
    from flows.retry import retry
    from flows.sweep import sweep

    outputs = [content(folder / name) for name in ("one", "two")]
    lost.unlink()
    with pytest.raises(OutputError, match=f"{lost} is missing: recompute it with `made retry {one['run']}`"):
        curate(folder / "c", output=folder / "other", extends=two["run"])
    retry(one["run"])
    with closing(Ledger.open(url)) as ledger:
        steps = sweep(ledger, two["run"], [two["dedup"]["eps"]]).steps
    assert steps[0].kept == two["samples"]["kept"]
    (folder / "two" / "sweep.html").unlink()
    (folder / "two" / "sweep.json").unlink()
    assert [content(folder / name) for name in ("one", "two")] == outputs

    for path in shards.glob("00002*"):
        shutil.copy2(path, folder / "a")
    curate(folder / "a", output=folder / "one", **SETTINGS, audit={"queries": 0})
    with pytest.raises(UserError, match=f"run {one['run']} has changed since run {two['run']} extended it"):
        curate(folder / "c", output=folder / "other", extends=two["run"])


def promised(outputs: list[Path], store: Path) -> tuple[int, int]:
    """(removed duplicates, those represented by a sample of an earlier generation), each within eps."""
    eps = checks.summary(outputs[0])["dedup"]["eps"]
    vector = checks.stored_rows(store)
    kept: dict[str, Path] = {}
    keys: dict[str, str] = {}
    checked = across = 0
    for output in outputs:
        rows = checks.decisions(output)
        for row in rows:
            if row["kept"]:
                assert row["uid"] not in kept
                kept[row["uid"]], keys[row["uid"]] = output, row["key"]
        for row in rows:
            if row["reason"] in ("near_duplicate", "exact_copy"):
                other = row["represented_by"]
                assert vector[row["uid"], row["key"]] @ vector[other, keys[other]] > 1 - eps
                checked, across = checked + 1, across + (kept[other] != output)
    return checked, across


def test_the_command_line(elsewhere: dict[str, str], curate: Curate, shards: Path, tmp_path: Path) -> None:
    """`--extends` alone uses the earlier recipe; `made why` finds representatives in earlier outputs."""
    one = curate(some(shards, tmp_path / "a", range(3)), output=tmp_path / "one", dedup={"keep": "easy"})
    here = {name: value for name, value in elsewhere.items() if name.startswith(("MADE_", "PREFECT_"))}
    del here["MADE_RAY_ADDRESS"]  # this process has joined it
    new, out = some(shards, tmp_path / "b", range(3, 5)), tmp_path / "two"
    words = ["--extends", one["run"], "--source", str(new), "--output", str(out)]
    done = made_here("curate", *words, **here)
    assert done.returncode == 0, done.stderr[-3000:]
    summary = checks.summary(out)
    assert summary["dedup"]["keep"] == "easy" and summary["state"] == RunState.COMPLETED.value
    assert summary["store"] == one["store"] and f"extends run {one['run']}" in done.stdout
    first = {r["uid"] for r in checks.decisions(tmp_path / "one") if r["kept"]}
    row = next(r for r in checks.decisions(out) if r["represented_by"] in first)
    done = made_here("why", row["uid"], "--output", str(out), **here, COLUMNS="400")
    assert done.returncode == 0, done.stderr
    text = "".join(done.stdout.split())
    assert row["represented_by"] in text and str(tmp_path / "one" / "shards") in text


def test_what_cannot_be_extended(servers: str, curate: Curate, shards: Path, tmp_path: Path) -> None:
    source = some(shards, tmp_path / "a", range(1))
    new = some(shards, tmp_path / "b", range(1, 2))
    one = curate(source, output=tmp_path / "one", dedup={"eps": 0.05})
    with pytest.raises(
        UserError, match=r"no run nonsense in the ledger, by id, output or flow run; .*" + one["run"]
    ):
        curate(new, output=tmp_path / "two", extends="nonsense")
    with pytest.raises(SourceError, match=f"run {one['run']} already contains all 1 shards"):
        curate(source, output=tmp_path / "two", extends=one["run"])
    with pytest.raises(OutputError, match="which is extended: choose another output"):
        curate(new, output=tmp_path / "one", extends=one["run"], replace=True)
    with pytest.raises(RecipeError, match="clusters cannot be changed when extending run"):
        curate(new, output=tmp_path / "two", extends=one["run"], clusters={"k": 3})
    with pytest.raises(RecipeError, match="has the encoder"):
        curate(new, output=tmp_path / "two", extends=one["run"], encoder={"model": "mean-colour"})
    with pytest.raises(RecipeError, match=r"stored pairs up to eps_max 0.24, this recipe sets 0.3"):
        curate(new, output=tmp_path / "two", extends=one["run"], dedup={"eps": 0.3}, replace=True)
    curate(source, output=tmp_path / "one", dedup={"eps": 0.06}, replace=True)
    with pytest.raises(UserError, match="is replaced: only a completed run"):
        curate(new, output=tmp_path / "two", extends=one["run"])
