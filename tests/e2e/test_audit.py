"""The measured recall equals brute force on the stored rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from made_core.ledger.ledger import Ledger
from made_core.stages import BY_NAME
from tests.support import oracle
from tests.support.runs import Curate


def by_brute_force(store: Path, probes: int, eps: float) -> tuple[int, int]:
    """(pairs compared, pairs) at eps of all images, each pair once, from stored rows and centroids."""
    canonicals: dict[bytes, tuple[str, Any]] = {}
    for path in sorted((store / "embeddings").glob("*/*.parquet")):
        for fact, row in zip(pq.read_table(path).to_pylist(), np.load(path.with_suffix(".npy")), strict=True):
            if fact["error"] is None:
                known = canonicals.get(fact["image_digest"])
                if known is None or fact["uid"] < known[0]:
                    canonicals[fact["image_digest"]] = (fact["uid"], row)
    rows = np.array([row for _, row in canonicals.values()])
    (centroids,) = (store / "centroids").glob("*/*.npy")
    x = oracle.unit(rows)
    near = np.triu(oracle.products(x, x) > 1 - eps, 1)
    met = oracle.compared(oracle.nearest(rows, np.load(centroids), probes))
    return int((near & met).sum()), int(near.sum())


def test_recall_equals_brute_force(servers: str, curate: Curate, sample: Path, tmp_path: Path) -> None:
    """k = 16 with one and two probes; the audit changes no decision, and known results are reused."""
    store, shares, eps = tmp_path / "store", [], 0.005
    common: dict[str, Any] = {
        "store": str(store),
        "encoder": {"model": "mean-colour"},  # its images are close: borders separate many pairs
        "dedup": {"eps": eps, "eps_max": 0.01},
        "work": {"shards_per_task": 3},
    }
    for probes in (1, 2):
        output, clusters = tmp_path / f"{probes}", {"k": 16, "probes": probes}
        summary = curate(sample / "shards", output=output, clusters=clusters, **common)
        found, pairs = by_brute_force(store, probes, eps)
        told = summary["recall"]
        assert (told["found"], told["pairs"], told["probes"]) == (2 * found, 2 * pairs, probes)
        assert told["estimate"] == told["low"] == told["high"] == pytest.approx(found / pairs, abs=1e-6)
        assert f"Found {2 * found:,} of {2 * pairs:,} duplicates" in (output / "report.html").read_text()
        shares.append(found / pairs)
    assert shares[0] <= shares[1] <= 1 and shares[0] < 1
    reference = curate(
        sample / "shards", output=tmp_path / "reference", clusters=clusters,
        **common | {"dedup": common["dedup"] | {"rule": "reference"}},
    )  # fmt: skip
    told = reference["recall"]  # the rule uses no pair across borders, however many probes there are
    assert told["estimate"] == pytest.approx(shares[0], abs=1e-6) and told["probes"] == 1

    def units() -> int:
        ledger = Ledger.open(servers)
        try:
            return sum(
                len(ledger.units.results(BY_NAME[s.stage], s.scope, None))
                for s in ledger.progress.of(summary["run"])
                if s.stage not in ("draw", "audit")
            )
        finally:
            ledger.close()

    before = units(), summary["decisions_digest"]
    drawn = curate(sample / "shards", output=output, clusters=clusters, audit={"queries": 60}, **common)
    told = drawn["recall"]
    assert (units(), drawn["decisions_digest"]) == before
    assert told["queries"] == 60 and told["low"] < told["high"]
    assert told["low"] <= shares[1] <= told["high"]
    assert "of 60 sampled images" in (output / "report.html").read_text()
    off = curate(sample / "shards", output=output, clusters=clusters, audit={"queries": 0}, **common)
    assert off["recall"] is None and off["decisions_digest"] == drawn["decisions_digest"]


def test_one_cluster_is_recall_one(curate: Curate, sample: Path, tmp_path: Path) -> None:
    summary = curate(sample / "shards", output=tmp_path / "out", clusters={"k": 1})
    assert summary["recall"]["estimate"] == summary["recall"]["low"] == 1
    assert "audit" not in summary["seconds_by_stage"]
    assert "Every image was compared with every other" in (tmp_path / "out" / "report.html").read_text()
