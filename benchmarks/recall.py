"""The recall lost at borders between clusters, and the coverage of its estimated interval.

    python -m benchmarks.recall --rows 20000 --dim 128 --clusters 64 --queries 1000 --seed 0
    python -m benchmarks.recall --store FOLDER --eps 0.05

Uses seeded rows in clumps with near-duplicates planted across borders, or the embeddings of a store.
For p = 1, 2, 4 probes: the true recall of all near pairs, the estimate of one draw, how many of 100
intervals contain the true recall, and the cost. Prints a table and one JSON line; exits 0 only if at
least 93 intervals contain it for every p.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from made_core.cluster import kmeans
from made_core.dedup import pair_recall

PROBES = (1, 2, 4)
DRAWS = 100
GOAL = 93  # intervals of 100 draws that contain the true recall
BLOCK = 2048
TRAINING = 64  # rows per centroid

Rows = npt.NDArray[np.float16]


def planted(rows: int, dim: int, seed: int) -> Rows:
    """(rows, dim) stored rows: overlapping clumps and groups of near-duplicates, sizes Pareto-distributed."""
    generator = np.random.default_rng(seed)
    centres = generator.normal(size=(rows // 100, dim))
    data = 0.5 * centres[generator.integers(0, len(centres), rows)] + generator.normal(size=(rows, dim))
    at = 0
    while at < rows // 4:
        size = min(50, 2 + int(generator.pareto(1.5)))
        data[at : at + size] = data[at] + 0.23 * generator.normal(size=(len(data[at : at + size]), dim))
        at += size
    data /= np.linalg.norm(data, axis=1, keepdims=True)
    return data.astype(np.float16)


def stored(store: Path) -> Rows:
    """(n, dim) the rows of the images in a store, each image once."""
    rows, seen = [], set()
    for table in sorted((store / "embeddings").glob("*/*.parquet")):
        facts = pq.read_table(table, columns=["error", "image_digest"]).to_pylist()
        for fact, row in zip(facts, np.load(table.with_suffix(".npy")), strict=True):
            if fact["error"] is None and fact["image_digest"] not in seen:
                seen.add(fact["image_digest"])
                rows.append(row)
    return np.array(rows)


def measure(rows: Rows, fitted: kmeans.Centroids, probes: int, eps: float, queries: int) -> dict[str, Any]:
    """For one p: the true recall, one estimate, how often the interval contains the truth, and the cost."""
    assigned = kmeans.assign(rows, fitted, probes)
    every = pair_recall.Images(np.arange(len(rows)), rows, assigned)
    truth = pair_recall.count(every, every, 1 - eps, BLOCK)
    true = float(truth[:, 1].sum() / truth[:, 0].sum())
    inside, widths = 0, []
    for draw in range(DRAWS):
        found = pair_recall.estimate(truth[_drawn(len(rows), queries, draw)], len(rows))
        low, high = (found.low, found.high) if found.estimate is not None else (0.0, 1.0)
        inside += low is not None and high is not None and low <= true <= high
        widths.append((high or 0) - (low or 0))
    start, drawn = time.monotonic(), _drawn(len(rows), queries, 0)
    sample = pair_recall.Images(drawn, rows[drawn], assigned[drawn])
    found = pair_recall.estimate(pair_recall.count(sample, every, 1 - eps, BLOCK), len(rows))
    sizes = np.bincount(assigned.ravel(), minlength=len(fitted))
    return {
        "probes": assigned.shape[1],
        "recall": round(true, 6),
        "pairs": int(truth[:, 0].sum()) // 2,
        "estimate": found.estimate and round(found.estimate, 6),
        "low": found.low and round(found.low, 6),
        "high": found.high and round(found.high, 6),
        "width": round(float(np.mean(widths)), 6),
        "inside": inside,
        "rows_written": int(sizes.sum()),
        "products": int((sizes.astype(np.int64) * (sizes - 1) // 2).sum()),
        "products_audit": len(drawn) * len(rows),
        "seconds_audit": round(time.monotonic() - start, 2),
    }


def _drawn(rows: int, queries: int, draw: int) -> npt.NDArray[np.int64]:
    chosen = np.random.default_rng(draw).choice(rows, min(queries, rows), replace=False)
    return np.sort(chosen).astype(np.int64)


def main() -> int:
    """Returns 0 if the interval contains the true recall often enough."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--clusters", type=int, default=64)
    parser.add_argument("--queries", type=int, default=1000, help="at most a third of the rows")
    parser.add_argument("--eps", type=float, default=0.05)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--store", type=Path, help="use the embeddings of this store instead of synthetic rows"
    )
    given = parser.parse_args()
    rows = stored(given.store) if given.store else planted(given.rows, given.dim, given.seed)
    queries = min(given.queries, len(rows) // 3)
    sample = np.random.default_rng(given.seed).permutation(len(rows))[: TRAINING * given.clusters]
    fitted = kmeans.fit(rows[sample], given.clusters, 20, given.seed)
    results = []
    table = Table(title=f"{len(rows):,} rows x {rows.shape[1]}, k = {given.clusters}, {queries:,} queries")
    for name in ("p", "recall", "estimate", "95 % interval", "mean width", "coverage", "rows written",
                 "products", "audit: products", "seconds"):  # fmt: skip
        table.add_column(name, justify="right")
    for probes in PROBES:
        r = measure(rows, fitted, probes, given.eps, queries)
        results.append(r)
        known = r["estimate"] is not None
        shown = f"{r['estimate']:.4f}" if known else "-"
        between = f"{r['low']:.4f} to {r['high']:.4f}" if known else "-"
        table.add_row(
            str(r["probes"]), f"{r['recall']:.4f}", shown, between, f"{r['width']:.4f}",
            f"{r['inside']}/{DRAWS}",
            f"{r['rows_written']:,}", f"{r['products']:,}", f"{r['products_audit']:,}",
            f"{r['seconds_audit']:.2f}",
        )  # fmt: skip
    Console(width=140).print(table)
    print(json.dumps({"rows": len(rows), "clusters": given.clusters, "queries": queries, "eps": given.eps,
                      "goal": GOAL, "results": results}))  # fmt: skip
    return 0 if all(r["inside"] >= GOAL for r in results) else 1


if __name__ == "__main__":
    sys.exit(main())
