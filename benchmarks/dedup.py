"""`make bench-dedup`: pairs and decisions of one cluster, compared with a full-matrix implementation.

    python -m benchmarks.dedup --rows 20000 --dim 512 --seed 0

Both get the same seeded rows (clumps of near-duplicates among random rows) and must keep the same
samples. Each runs in its own processes with one thread; reports the median CPU time and the peak memory
above the baseline of the process. What a CPU can do at best is the bare product of the upper half, in
blocks, in the faster of int8 and float32: made may take up to 1.25 times as long. Prints a table and one
JSON line; exits 0 only if the goals are met.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from made_core.dedup import candidates, near_pairs, rules
from made_core.vectors import Rows

EPS = 0.05
LIMIT, SMALLER = 1.25, 50.0  # goals: time against the bare product, memory against the full matrix
BLOCK = 2048  # rows
RUNS = 5


def rows_of(n: int, dim: int, seed: int) -> Rows:
    """(n, dim) float16: two of three rows have no neighbour, the others are in clumps of four within eps."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(n, dim)).astype(np.float32)
    clumped = n // 3 // 4 * 4
    rows[:clumped] = np.repeat(rows[: clumped // 4], 4, axis=0)
    rows[:clumped] += 0.15 * rng.normal(size=(clumped, dim)).astype(np.float32)
    stored: Rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16)
    return stored


def full_matrix(rows: np.ndarray) -> np.ndarray:
    """(n,) whether a row is kept by the reference rule in row order, from the full float32 matrix."""
    unit = torch.from_numpy(rows.astype(np.float32))
    unit = unit / unit.norm(dim=1, keepdim=True)
    nearest = torch.triu(unit @ unit.T, diagonal=1).max(dim=0).values
    return (nearest <= 1 - EPS).numpy()


def ours(rows: np.ndarray) -> np.ndarray:
    """(n,) the same computed by made: blocks, candidates, float64."""
    found = list(near_pairs.near(rows, 1 - EPS, BLOCK))
    i, j, value = (np.concatenate(side) for side in zip(*found, strict=True))
    n = len(rows)
    return rules.reference(np.arange(n), np.zeros(n, np.int64), i, j, value, 1 - EPS).kept


def bare(rows: np.ndarray) -> np.ndarray:
    """Only the products of the upper half, block by block, in the fastest type of this CPU."""
    blocks = [candidates.prepare(rows[start : start + BLOCK]) for start in range(0, len(rows), BLOCK)]
    operands = [block.unit if block.quantised is None else block.quantised for block in blocks]
    started = time.process_time()
    for at, left in enumerate(operands):
        for right in operands[at:]:
            torch._int_mm(left, right.T) if left.dtype == torch.int8 else left @ right.T
    return np.array([time.process_time() - started])


def measure(name: str, n: int, dim: int, seed: int) -> None:
    """Runs one implementation in this process; prints a JSON line."""
    torch.set_num_threads(1)
    rows = rows_of(n, dim, seed)
    int8 = candidates.int8_is_faster()
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = _memory("VmRSS")
    started = time.process_time()
    kept = {"full": full_matrix, "ours": ours, "bare": bare}[name](rows)
    seconds = time.process_time() - started if name != "bare" else float(kept[0])
    peak = _memory("VmHWM") - before
    digest = int((np.flatnonzero(kept) ** 2).sum())
    print(json.dumps({"seconds": seconds, "mib": peak, "digest": digest, "int8": int8}))


def _memory(name: str) -> float:
    """A memory counter of this process in MiB, from /proc."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(name))


def main() -> int:
    """Runs both and compares; returns 0 if the goals are met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=["full", "ours", "bare"], help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.only:
        measure(args.only, args.rows, args.dim, args.seed)
        return 0
    runs: dict[str, list[dict[str, float]]] = {"full": [], "ours": [], "bare": []}
    for _ in range(RUNS):
        for name in runs:  # interleaved, so that noise affects both
            command = [sys.executable, "-m", "benchmarks.dedup", "--only", name, "--rows", str(args.rows)]
            command += ["--dim", str(args.dim), "--seed", str(args.seed)]
            env = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
            done = subprocess.run(command, env=env, check=True, capture_output=True, text=True)
            runs[name].append(json.loads(done.stdout))
    middle = {
        name: {key: statistics.median(run[key] for run in some) for key in ("seconds", "mib")}
        for name, some in runs.items()
    }
    equal = len({run["digest"] for name in ("full", "ours") for run in runs[name]}) == 1
    figures = {
        "rows": args.rows,
        "dim": args.dim,
        "int8": all(run["int8"] for run in runs["ours"]),
        "full_seconds": round(middle["full"]["seconds"], 3),
        "ours_seconds": round(middle["ours"]["seconds"], 3),
        "bare_seconds": round(middle["bare"]["seconds"], 3),
        "against_bare": round(middle["ours"]["seconds"] / middle["bare"]["seconds"], 3),
        "faster": round(middle["full"]["seconds"] / middle["ours"]["seconds"], 2),
        "full_mib": round(middle["full"]["mib"], 1),
        "ours_mib": round(middle["ours"]["mib"], 1),
        "smaller": round(middle["full"]["mib"] / max(middle["ours"]["mib"], 0.1), 1),
        "same_decisions": equal,
    }
    table = Table(title=f"one cluster of {args.rows:,} rows, {args.dim} dimensions, one thread")
    for name in ("", "CPU seconds", "peak MiB"):
        table.add_column(name, justify="right")
    table.add_row("full matrix", str(figures["full_seconds"]), str(figures["full_mib"]))
    table.add_row("made", str(figures["ours_seconds"]), str(figures["ours_mib"]))
    kind = "int8" if figures["int8"] else "float32"
    table.add_row(f"bare {kind} product of the upper half", str(figures["bare_seconds"]), "")
    table.add_row("full matrix / made", str(figures["faster"]), f"{figures['smaller']} (goal {SMALLER})")
    table.add_row("made / bare product", f"{figures['against_bare']} (goal {LIMIT})", "")
    Console().print(table)
    print(json.dumps(figures))
    return 0 if equal and figures["against_bare"] <= LIMIT and figures["smaller"] >= SMALLER else 1


if __name__ == "__main__":
    sys.exit(main())
