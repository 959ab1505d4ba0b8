"""The flow on real parts: PostgreSQL, Prefect's server, Ray, tars."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from flows import steps, unchanged
from flows.why import explain
from made_core.errors import EncoderError, OutputError, RecipeError, SourceError, TooManyFailures
from made_core.ledger.ledger import Ledger
from made_core.reasons import PLACEHOLDER
from made_core.sample.score import Score, score
from made_core.types import RunState, UnitState
from tests.support import checks, oracle
from tests.support.checks import outcome, tars
from tests.support.factories import WORDS, make_shard, members, stats, tiny_open_clip
from tests.support.runs import Curate, events

First = tuple[Path, dict[str, Any]]


def scored(sample: Path, output: Path) -> Score:
    truth = json.loads((sample / "truth.json").read_text())
    rows = checks.decisions(output)
    return score(truth["groups"], [(r["uid"], r["kept"], r["represented_by"]) for r in rows])


def test_planted_groups_are_found(sample: Path, first: First) -> None:
    output, summary = first
    found = scored(sample, output)
    assert found.precision >= 0.95 and found.recall >= 0.95
    assert summary["state"] == "completed" and summary["samples"]["in"] == 400
    assert summary["samples"]["dropped"]["exact_copy"] > 0


def test_output_is_consistent(sample: Path, first: First) -> None:
    output, summary = first
    source = tars(sample / "shards")
    checks.accounts_balance(output, source)
    assert checks.representatives_stand(output, output / "store") == summary["promise"]["checked"] > 50
    assert checks.bytes_equal(output, source) == summary["samples"]["kept"]
    checks.keep_lists(output)
    assert not (output / ".parts").exists()
    assert (output / "report.html").read_text().count("data:image/jpeg") > 20


def test_other_readers_read_the_output(first: First) -> None:
    checks.readers_read(first[0], first[1]["samples"]["kept"])


@pytest.mark.parametrize("asked", ["the ledger", "each stage"])
def test_second_run_recomputes_nothing(
    servers: str, curate: Curate, sample: Path, first: First, monkeypatch: pytest.MonkeyPatch, asked: str
) -> None:
    """A run that is completed is not started; nor do the stages of one that has to be looked at."""
    output, summary = first
    if asked == "the ledger":
        monkeypatch.setitem(sys.modules, "flows.run", None)  # would import Ray and run
    else:
        monkeypatch.setattr(unchanged, "result", lambda url, request: None)
    before, claims = outcome(output), events(servers, summary["run"])
    stamps = {p: p.stat().st_mtime_ns for p in output.rglob("*") if p.is_file()}
    again = curate(sample / "shards", output=output)
    assert again == summary
    assert outcome(output) == before and events(servers, summary["run"]) == claims
    assert {p: p.stat().st_mtime_ns for p in output.rglob("*") if p.is_file()} == stamps


@pytest.mark.parametrize("work", [{"block_rows": 50}, {"pairs_per_sample": 0}])
def test_a_cut_cluster_gives_identical_files(
    curate: Curate,
    sample: Path,
    first: First,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    work: dict[str, int],
) -> None:
    """The one cluster is searched in slices; test_pbs_cluster.py has a run on other workers, uncut."""
    monkeypatch.setattr(steps, "PAIRS_COST", 1e4)
    curate(sample / "shards", output=tmp_path / "twin", work=work)
    assert outcome(tmp_path / "twin") == outcome(first[0])
    assert len(list((tmp_path / "twin" / "store" / "pairs").glob("*/0.*of*.pairs"))) > 2


def test_shards_in_another_order_change_nothing(
    curate: Curate, sample: Path, first: First, tmp_path: Path
) -> None:
    given = sorted((sample / "shards").glob("*.tar"), reverse=True)
    store = first[0] / "store"
    curate(*given, output=tmp_path / "output", store=str(store))
    assert outcome(tmp_path / "output") == outcome(first[0])


def test_another_eps_embeds_and_clusters_nothing(
    servers: str, curate: Curate, sample: Path, first: First, tmp_path: Path
) -> None:
    output, summary = first
    before = events(servers, summary["run"])
    other = curate(
        sample / "shards", output=tmp_path / "output", store=str(output / "store"), dedup={"eps": 0.02}
    )
    assert other["samples"]["kept"] > summary["samples"]["kept"]
    after = events(servers, other["run"])
    for stage in ("embed", "identify", "fit", "assign", "pairs"):
        assert after[stage] == before[stage], stage


def test_how_the_work_is_split_is_in_no_scope(
    servers: str, curate: Curate, sample: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other batches are assigned and tabulated; pairs, decisions and output shards are reused."""
    monkeypatch.setattr(unchanged, "result", lambda url, request: None)  # else nothing starts
    output = tmp_path / "output"
    first = curate(sample / "shards", output=output, audit={"queries": 0})
    before = events(servers, first["run"])
    work = {"shards_per_task": 1, "pairs_per_sample": 7, "block_rows": 100}
    second = curate(sample / "shards", output=output, audit={"queries": 0}, work=work)
    assert second == first, "the output is up to date"
    after = events(servers, first["run"])
    again = {"assign": before["assign"] + 4, "tabulate": before["tabulate"] + 4}
    assert after == before | again


def test_mean_colour_finds_few_duplicates(curate: Curate, sample: Path, tmp_path: Path) -> None:
    curate(sample / "shards", output=tmp_path / "output", encoder={"model": "mean-colour"})
    assert scored(sample, tmp_path / "output").f1 < 0.8


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


@pytest.mark.parametrize(("rule", "keep"), [("cover", "hard"), ("reference", "easy")])
def test_decisions_equal_the_oracle(
    curate: Curate, sample: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory,
    rule: str, keep: str,
) -> None:  # fmt: skip
    """k = 16 with two probes, six eps, one store; the oracle gets only stored rows and centroids.

    (The other rule and keep values: tests/unit/test_decide.py, without the flow.)
    """
    store = tmp_path_factory.getbasetemp() / "oracle-store"
    for eps in (0.005, 0.02, 0.05, 0.1, 0.15, 0.25):
        output = tmp_path / f"{eps}"
        curate(
            sample / "shards", output=output, store=str(store), clusters={"k": 16, "probes": 2},
            dedup={"eps": eps, "eps_max": 0.3, "rule": rule, "keep": keep},
        )  # fmt: skip
        rows = sorted(checks.decisions(output), key=lambda r: (r["shard"], r["row"]))
        table, vectors = [], []
        for path in sorted((store / "embeddings").glob("*/*.parquet")):
            table += pq.read_table(path).to_pylist()
            vectors.append(np.load(path.with_suffix(".npy")))
        stored = {f["uid"]: (f, v) for f, v in zip(table, np.concatenate(vectors), strict=True)}
        centroids = np.load(next((store / "centroids").glob("*/*.npy")))
        vectors_in_order = np.array([stored[r["uid"]][1] for r in rows])
        distance = oracle.distances(vectors_in_order, centroids)
        expected = oracle.decide(
            rows=vectors_in_order,
            images=[stored[r["uid"]][0]["image_digest"] for r in rows],
            uids=[r["uid"] for r in rows],
            readable=[True] * len(rows),
            filtered=[None] * len(rows),
            probes=oracle.nearest(vectors_in_order, centroids, 2),
            values=[-d if keep == "hard" else d for d in distance],
            eps=eps,
            rule=rule,
        )
        assert [r["kept"] for r in rows] == expected.kept
        assert [r["reason"] for r in rows] == expected.reason


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


def test_open_clip_model(curate: Curate, tmp_path: Path) -> None:
    config, checkpoint = tiny_open_clip(tmp_path)
    make_shard(tmp_path / "in", "00000", [(f"{n:08d}", members(n)) for n in range(50)])
    encoder = {"model": config.stem, "config": str(config), "pretrained": str(checkpoint), "batch_size": 8}
    summary = curate(tmp_path / "in", output=tmp_path / "out", encoder=encoder, dedup={"eps": 1e-3})
    assert summary["encoder"]["dim"] == 16 and summary["samples"]["in"] == 50
    checks.representatives_stand(tmp_path / "out", tmp_path / "out" / "store")
    wrong = encoder | {"pretrained": str(config)}
    with pytest.raises(EncoderError, match="pretrained"):
        curate(tmp_path / "in", output=tmp_path / "other", encoder=wrong)


def test_captions_are_added_to_embedded_images(
    servers: str, curate: Curate, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No image is embedded again; scores are cosines of stored rows; rules and filters read them."""
    config, checkpoint = tiny_open_clip(tmp_path, "able", text=WORDS)
    captions = ["a cat", None, "a dog on a beach", "x y"]
    samples = [(f"{n:08d}", members(n, captions[n % 4])) for n in range(40)]
    make_shard(tmp_path / "in", "00000", samples)
    model = {"model": config.stem, "config": str(config), "pretrained": str(checkpoint), "batch_size": 8}
    given: dict[str, Any] = {
        "store": str(tmp_path / "store"),
        "audit": {"queries": 0},
        "dedup": {"eps": 1e-4},
    }
    first = curate(tmp_path / "in", output=tmp_path / "a", encoder=model | {"captions": "skip"}, **given)
    assert first["encoder"]["caption_key"] is None
    assert {row["clip_score"] for row in checks.decisions(tmp_path / "a")} == {None}

    given["dedup"] |= {"keep": "clip_score"}
    second = curate(
        tmp_path / "in", output=tmp_path / "b", encoder=model, filters={"min_clip_score": -1}, **given
    )
    assert second["encoder"]["key"] == first["encoder"]["key"] and second["encoder"]["caption_key"]
    claims = events(servers, second["run"])
    assert (claims["embed"], claims["captions"]) == (1, 1)  # that of the first run, and ours
    (images,) = (tmp_path / "store" / "embeddings").rglob("*.npy")
    (texts,) = (tmp_path / "store" / "captions").rglob("*.npy")
    a, b = np.load(images).astype(float), np.load(texts).astype(float)
    rows = checks.decisions(tmp_path / "b")
    for row in rows:
        n = row["row"]
        expected = a[n] @ b[n] / np.linalg.norm(a[n]) / np.linalg.norm(b[n]) if b[n].any() else None
        assert row["clip_score"] == (expected if expected is None else pytest.approx(expected, abs=1e-12))
        assert row["reason"] in (("low_clip_score",) if expected is None else (None, "near_duplicate"))
    assert sum(row["clip_score"] is None for row in rows) == 10
    kept = next(row for row in rows if row["kept"])
    listing = pq.read_table(tmp_path / "b" / "shards" / "00000000.parquet").to_pylist()
    assert {r["uid"]: r["clip_score"] for r in listing}[kept["uid"]] == kept["clip_score"]
    explain(str(tmp_path / "b"), kept["uid"])
    assert f"{kept['clip_score']:.4f}" in capsys.readouterr().out


def test_output_of_another_run_is_refused(curate: Curate, sample: Path, first: First, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="--replace"):
        curate(sample / "shards", output=first[0], dedup={"eps": 0.03})
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "thesis.txt").write_text("precious")
    with pytest.raises(OutputError, match=r"thesis\.txt"):
        curate(sample / "shards", output=tmp_path / "theirs")
    with pytest.raises(OutputError, match="source"):
        curate(sample / "shards", output=sample / "shards" / "out")
    assert not (sample / "shards" / "out").exists()


def test_replace_takes_the_output_over(curate: Curate, sample: Path, tmp_path: Path) -> None:
    small = {"writing": {"samples_per_shard": 50}}
    curate(sample / "shards", output=tmp_path / "out", **small)
    assert len(list((tmp_path / "out" / "shards").glob("*.tar"))) > 3
    curate(sample / "shards", output=tmp_path / "out", replace=True, writing={"samples_per_shard": 200})
    checks.bytes_equal(tmp_path / "out", tars(sample / "shards"))


def test_missing_files_are_recomputed(curate: Curate, sample: Path, tmp_path: Path) -> None:
    curate(sample / "shards", output=tmp_path / "out")
    before = outcome(tmp_path / "out")
    next((tmp_path / "out" / "store" / "embeddings").glob("*/*.npy")).unlink()
    (tmp_path / "out" / "shards" / "00000000.tar").unlink()
    curate(sample / "shards", output=tmp_path / "out")
    assert outcome(tmp_path / "out") == before


def test_no_readable_shard(curate: Curate, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    with pytest.raises(SourceError, match="no shard"):
        curate(tmp_path / "in", output=tmp_path / "out")


def test_eps_max_below_eps_is_refused(curate: Curate, sample: Path, tmp_path: Path) -> None:
    """Pairs between eps_max and eps would not be stored: refused, also for the encoder's default eps."""
    with pytest.raises(RecipeError, match=r"eps_max is 0.02, below eps, 0.12 \(the encoder's default\)"):
        curate(sample / "shards", output=tmp_path / "out", dedup={"eps_max": 0.02})
