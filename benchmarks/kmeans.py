"""The speed of k-means relative to float32 matrix products, and its quality relative to FAISS.

    python -m benchmarks.kmeans --rows 200000 --dim 512 --clusters 1000 --seed 0

Compares training and assignment, at 2 n k d operations per iteration, with the fastest float32 product of
this process: medians of CPU time of one thread, interleaved. Then compares the mean cosine to the centroids
with FAISS's, on clustered and on random rows. Prints a table and one JSON line; exits 0 only if the rates
are at least 0.9 of the product's and the cosines at most 0.001 below FAISS's.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from made_core.cluster import kmeans
from made_core.dedup import candidates

SHARE, WORSE = 0.9, 1e-3  # goals
RUNS = 3
SHAPES = ((4096, 512, 4096), (2048, 2048, 2048), (4096, 512, 1000))  # of float32 products; the fastest counts

Rows = np.ndarray[Any, np.dtype[np.float16]]


def rows_of(n: int, dim: int, clumps: int, seed: int) -> Rows:
    """(n, dim) stored rows around `clumps` centres; 0: random rows."""
    generator = np.random.default_rng(seed)
    rows = generator.standard_normal((n, dim), np.float32)
    if clumps:
        rows += 0.7 * generator.standard_normal((clumps, dim), np.float32)[generator.integers(0, clumps, n)]
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16)


def seconds(do: Callable[[], object]) -> float:
    """CPU seconds of this process."""
    started = time.process_time()
    do()
    return time.process_time() - started


def gemm() -> float:
    """GFLOP/s of the fastest float32 product."""
    best = 0.0
    for m, inner, n in SHAPES:
        left, right = torch.randn(m, inner), torch.randn(inner, n)
        out = torch.empty(m, n)
        spent = min(seconds(lambda a=left, b=right, c=out: torch.mm(a, b, out=c)) for _ in range(4))
        best = max(best, 2 * m * inner * n / spent / 1e9)
    return best


def cosine(rows: Rows, means: kmeans.Centroids) -> float:
    """The mean cosine of rows to their centroids."""
    return float(1 - kmeans.assign(rows, means, 1).distance.mean())


def main() -> int:
    """Returns 0 if the goals are met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--clusters", type=int, default=1000)
    parser.add_argument("--iterations", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    kmeans.FIT_THREADS = 1
    n, dim, k = args.rows, args.dim, args.clusters
    rows = rows_of(n, dim, 2 * k, args.seed)
    once = 2e-9 * n * k * dim  # GFLOP
    means = kmeans.lloyd(rows, k, 2, args.seed)
    work: dict[str, tuple[float, Callable[[], object]]] = {
        "training": (
            args.iterations * once,
            lambda: kmeans.lloyd(rows, k, args.iterations, args.seed),
        ),
        "assignment, probes 1": (once, lambda: kmeans.assign(rows, means, 1)),
        "assignment, probes 2": (once, lambda: kmeans.assign(rows, means, 2)),
    }
    peaks = [gemm()]
    rates: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(RUNS):
        for name, (gflop, do) in work.items():
            rates[name].append(gflop / seconds(do))
            peaks.append(gemm())
    peak = statistics.median(peaks)
    middle = {name: statistics.median(some) for name, some in rates.items()}
    gflop, _ = work["training"]
    by_faiss = seconds(lambda: kmeans.by_faiss(rows, k, args.iterations, args.seed, gpu=False))
    middle["training by FAISS"] = gflop / by_faiss
    table = Table(title=f"{n:,} rows x {dim}, k = {k:,}, one thread; float32 product {peak:.0f} GFLOP/s")
    for name in ("", "GFLOP/s", "of the product"):
        table.add_column(name, justify="right")
    for name, rate in middle.items():
        table.add_row(name, f"{rate:.0f}", f"{rate / peak:.2f}")
    quality = {}
    for name, clumps in (("clustered", k // 2), ("random", 0)):
        some = rows_of(n // 4, dim, clumps, args.seed + 1)
        ours = cosine(some, kmeans.lloyd(some, k // 4, args.iterations, args.seed))
        theirs = cosine(some, kmeans.by_faiss(some, k // 4, args.iterations, args.seed, gpu=False))
        quality[name] = {"ours": round(ours, 5), "faiss": round(theirs, 5)}
        table.add_row(f"mean cosine, {name}", f"{ours:.4f}", f"FAISS {theirs:.4f}")
    Console().print(table)
    shares = {name: round(rate / peak, 3) for name, rate in middle.items()}
    print(json.dumps({
        "rows": n, "dim": dim, "clusters": k, "int8": candidates.int8_is_faster(), "gemm": round(peak, 1),
        "shares": shares, "mean_cosine": quality, "goal": SHARE,
    }))  # fmt: skip
    fast = all(shares[name] >= SHARE for name in ("training", "assignment, probes 1"))
    return 0 if fast and all(q["ours"] >= q["faiss"] - WORSE for q in quality.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
