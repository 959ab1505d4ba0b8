"""The flow on real parts: PostgreSQL, Prefect's server, Ray, tars."""

from __future__ import annotations

import json
import shutil
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from flows import unchanged
from made_core.cluster import pair_tasks
from made_core.errors import OutputError, RecipeError
from made_core.sample.score import Score, score
from tests.support import checks, oracle
from tests.support.checks import outcome, tars
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
    monkeypatch.setattr(pair_tasks, "number", partial(pair_tasks.number, cost=1e4))
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
    for name in ("keep.parquet", "keep.npy", "accounts.parquet", "report.html", "shards/sizes.json"):
        (tmp_path / "out" / name).unlink()
        curate(sample / "shards", output=tmp_path / "out")
        assert outcome(tmp_path / "out") == before, name
    for name in ("embeddings", "cluster_rows", "pairs", "decisions", "corpora"):  # to free the space
        shutil.rmtree(tmp_path / "out" / "store" / name)
    curate(sample / "shards", output=tmp_path / "out")
    assert outcome(tmp_path / "out") == before


def test_eps_max_below_eps_is_refused(curate: Curate, sample: Path, tmp_path: Path) -> None:
    """Pairs between eps_max and eps would not be stored: refused, also for the encoder's default eps."""
    with pytest.raises(RecipeError, match=r"eps_max is 0.02, below eps, 0.12 \(the encoder's default\)"):
        curate(sample / "shards", output=tmp_path / "out", dedup={"eps_max": 0.02})
