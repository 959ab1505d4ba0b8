"""`make bench-probes`: `probes: auto` on near-duplicates planted across cluster borders.

    python -m benchmarks.probes --seeds 100

For each seed, k-means on one sample and the choice of probes on another, as the stage fit does; then the true
recall of the near pairs of --queries images with all, with that many probes, and what they cost beside one
probe. Prints a table and one JSON line; exits 0 only if the recall is at least .99 for 95 of 100 seeds.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, dataclass

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.recall import planted
from made_core.cluster import kmeans
from made_core.dedup import pair_recall, probes

EPS = 0.05
ENOUGH = 0.95  # of the seeds


@dataclass(frozen=True)
class Trial:
    """One seed."""

    probes: int  # chosen
    pairs: int  # near pairs that the choice was measured on
    measured: float | None  # recall on the sample
    recall: float  # true recall with the chosen probes
    recall_one: float  # and with one
    cost: float  # products of the pair search, against one probe


def trial(seed: int, rows: int, dim: int, clusters: int, samples_per_centroid: int, queries: int) -> Trial:
    """Chooses the probes of one seed's rows, and looks at the pairs of `queries` of them with all."""
    data, size = planted(rows, dim, seed), samples_per_centroid * clusters
    shuffled = np.random.default_rng(seed).permutation(rows)
    centroids = kmeans.fit(data[shuffled[:size]], clusters, 20, seed)
    chosen = probes.choose(data[shuffled[-size:]], centroids, EPS)
    drawn = np.sort(np.random.default_rng(seed + 1).permutation(rows)[:queries])

    def truth(p: int) -> tuple[float, int]:
        assigned = kmeans.assign(data, centroids, p)
        every = pair_recall.Images(np.arange(rows), data, assigned)
        some = pair_recall.Images(drawn, data[drawn], assigned[drawn])
        counts = pair_recall.count(some, every, 1 - EPS, 2048).sum(axis=0)
        sizes = np.bincount(assigned.ravel(), minlength=clusters)
        return float(counts[1] / counts[0]), int((sizes * (sizes - 1) // 2).sum())

    recall, products = truth(chosen.probes)
    recall_one, products_one = truth(1)
    return Trial(chosen.probes, chosen.pairs, chosen.recall, recall, recall_one, products / products_one)


def main() -> int:
    """Returns 0 if the goal holds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("--rows", type=int, default=32_000)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--clusters", type=int, default=16)
    parser.add_argument("--samples-per-centroid", type=int, default=256)
    parser.add_argument("--queries", type=int, default=8_000)
    given = parser.parse_args()
    trials = [
        trial(seed, given.rows, given.dim, given.clusters, given.samples_per_centroid, given.queries)
        for seed in track(range(given.seeds), "seeds", console=Console(stderr=True))
    ]
    table = Table(title=f"{given.rows:,} rows x {given.dim}, k = {given.clusters}, {given.seeds} seeds")
    for name in ("probes", "seeds", "recall: lowest", "mean", "with one probe", "cost against one probe"):
        table.add_column(name, justify="right")
    for p in sorted({t.probes for t in trials}):
        some = [t for t in trials if t.probes == p]
        table.add_row(
            str(p), str(len(some)), f"{min(t.recall for t in some):.4f}",
            f"{np.mean([t.recall for t in some]):.4f}", f"{np.mean([t.recall_one for t in some]):.4f}",
            f"{np.mean([t.cost for t in some]):.2f}",
        )  # fmt: skip
    Console(width=120).print(table)
    good = sum(t.recall >= probes.ENOUGH for t in trials)
    print(f"recall of at least {probes.ENOUGH} for {good} of {len(trials)} seeds")
    print(json.dumps({"good": good, "seeds": len(trials), "trials": [asdict(t) for t in trials]}))
    return 0 if good >= ENOUGH * len(trials) else 1


if __name__ == "__main__":
    sys.exit(main())
