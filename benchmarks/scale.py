"""The cost per sample as the corpus grows, and whether a million samples fit into 4 GiB.

    python -m benchmarks.scale --sizes 50000 200000 1000000 --dim 512 --seed 0
    python -m benchmarks.scale --sizes 5000 20000 --curve 20000 --dim 64

Stores seeded clustered rows with planted near-duplicates. A separate process with limited memory then
runs identify, fit, assign, pairs and resolve as the tasks do, two units at a time. The last size is
repeated with a crowd: one cluster contains a tenth of all rows, most of which are not near-duplicates of
each other. Prints tables and one JSON line; exits 0 only if every run stays within the memory limit and
the goals for time and exponent are met.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from rich.console import Console
from rich.table import Table

from benchmarks import scale_run
from made_core.embed import embedded, metadata
from made_core.embed.embedded import Batch, EmbeddedShard

STEEPEST, MINUTES = 1.6, 5.0  # goals: the exponent; minutes for the largest corpus
PART = 10_000  # rows per shard
COPIES = 0.1  # share of rows that are near-duplicates of another
PAPER = (12_800_000, 128_000_000, 1_280_000_000)
GPU = 989e12 * 0.4  # operations per second: 40 % of an H100's published dense bf16 rate
FIELDS = metadata.SCHEMA.names


def store(folder: Path, n: int, dim: int, seed: int, crowd: bool, part: int = PART) -> None:
    """Stores n rows as embedded shards of `part` rows; with `crowd`, a tenth are near the first axis."""
    generator = np.random.default_rng(seed)
    centres = generator.standard_normal((max(2, n // 200), dim), np.float32)
    for number, start in enumerate(range(0, n, part)):
        m = min(part, n - start)
        rows = generator.standard_normal((m, dim), np.float32)
        rows += 1.2 * centres[generator.integers(0, len(centres), m)]
        if crowd:
            rows[: m // 10] = 0.5 / math.sqrt(dim) * generator.standard_normal((m // 10, dim), np.float32)
            rows[: m // 10, 0] += 1  # cosines of 0.8
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        copies = generator.permutation(m)[: int(COPIES * m)]
        noise = 0.2 / math.sqrt(dim) * generator.standard_normal((len(copies), dim), np.float32)
        rows[copies] = rows[generator.integers(0, m, len(copies))] + noise
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        raw = [generator.bytes(16) for _ in range(m)]
        given = {
            "row": np.arange(m, dtype=np.int32),
            "key": [f"{start + i:09d}" for i in range(m)],
            "uid": [r.hex() for r in raw],
            "image_digest": pa.array(raw, pa.binary(16)),
            "caption": ["a synthetic row without an image"] * m,
        }
        table = pa.table(
            {name: given.get(name, pa.nulls(m, metadata.SCHEMA.field(name).type)) for name in FIELDS},
            schema=metadata.SCHEMA,
        )
        batches = (batch for batch in [Batch(rows.astype(np.float16), table)])
        embedded.put(
            str(folder / "embeddings" / f"{number:05d}"), EmbeddedShard(m, dim, stray=0, batches=batches)
        )


def measure(n: int, dim: int, seed: int, crowd: bool, more: list[str]) -> dict[str, Any]:
    """Runs `benchmarks.scale_run` in its own process."""
    with tempfile.TemporaryDirectory(prefix="made-scale-", dir=os.environ.get("MADE_SCRATCH")) as folder:
        store(Path(folder), n, dim, seed, crowd)
        command = [
            sys.executable,
            "-m",
            "benchmarks.scale_run",
            folder,
            *(["--crowd"] if crowd else []),
            *more,
        ]
        started = time.monotonic()
        env = {**os.environ, "OMP_NUM_THREADS": "1"}  # as in a worker; two run at a time
        done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
        if done.returncode:
            return {"n": n, "crowd": crowd, "error": done.stderr.strip().splitlines()[-1]}
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return {"n": n, "crowd": crowd, "wall": round(time.monotonic() - started, 1), **found}


def paper(largest: dict[str, Any], dim: int) -> list[dict[str, float]]:
    """Operations of the products, and the time they take at the rates measured here and on a GPU."""
    rate = {s: largest["flop"][s] / largest["seconds"][s] for s in ("fit", "assign", "pairs")}
    rows = []
    for n in PAPER:
        k = math.isqrt(n)
        flop = scale_run.operations(n, k, dim, largest["skew"] * n * n / k)
        rest = n / largest["n"] * sum(largest["seconds"][s] for s in ("identify", "resolve"))
        here = largest["threads"] * sum(flop[s] / rate[s] for s in flop)
        rows.append({
            "n": n, "k": k, "tflop": round(sum(flop.values()) / 1e12),
            "core_hours": round((here + rest) / 3600, 1),
            "gpu_seconds": round(sum(flop.values()) / GPU, 1),
            "gigabytes": round(2 * n * dim / 1e9, 1),
        })  # fmt: skip
    return rows


def main() -> int:
    """Returns 0 if the goals are met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[50_000, 200_000, 1_000_000])
    parser.add_argument(
        "--curve", type=int, default=200_000, help="rows of the table of cost against k; 0: no table"
    )
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    console = Console(width=150)
    runs = [measure(n, args.dim, args.seed, False, []) for n in args.sizes]
    runs.append(measure(args.sizes[-1], args.dim, args.seed, True, []))
    table = Table(title=f"{args.dim} dimensions, {scale_run.THREADS} workers, memory limited to 4 GiB")
    stages = ("identify", "fit", "assign", "pairs", "resolve")
    for name in ("rows", "k", "largest", *stages, "seconds", "us/sample", "kept", "peak MiB"):
        table.add_column(name, justify="right")
    for r in runs:
        if "error" in r:
            table.add_row(f"{r['n']:,}", r["error"])
            continue
        total = sum(r["seconds"].values())
        table.add_row(
            f"{r['n']:,}{' crowd' if r['crowd'] else ''}", f"{r['k']:,}", f"{r['largest']:,}",
            *(f"{r['seconds'][s]:.1f}" for s in stages),
            f"{total:.1f}", f"{1e6 * total / r['n']:.0f}", f"{r['kept']:,}", f"{r['peak_mib']:,.0f}",
        )  # fmt: skip
    console.print(table)
    figures: dict[str, Any] = {"dim": args.dim, "seed": args.seed, "runs": runs}
    good = not any("error" in r for r in runs)
    if good:
        plain = [r for r in runs if not r["crowd"]]
        totals = [sum(r["seconds"].values()) for r in plain]
        if len(plain) > 1:
            slope = np.polyfit(np.log([r["n"] for r in plain]), np.log(totals), 1)[0]
            figures["exponent"] = round(float(slope), 3)
        figures["paper"] = paper(plain[-1], args.dim)
        good = figures.get("exponent", 0) <= STEEPEST and totals[-1] <= 60 * MINUTES
        console.print(f"cost ~ rows^{figures.get('exponent')} (goal {STEEPEST})")
        console.print(f"{args.sizes[-1]:,} rows: {totals[-1] / 60:.1f} minutes (goal {MINUTES:g})")
        _print_paper(console, figures["paper"])
    if args.curve:
        curve = measure(args.curve, args.dim, args.seed, False, ["--curve"])
        figures["curve"] = curve.get("curve", curve)
        good = good and "error" not in curve
        _print_curve(console, args.curve, curve.get("curve", []))
    print(json.dumps(figures))
    return 0 if good else 1


def _print_paper(console: Console, rows: list[dict[str, float]]) -> None:
    table = Table(
        title="extrapolated: k = sqrt(rows); this CPU at the rates above; a GPU at 40 % of 989 TFLOP/s"
    )
    for name in ("rows", "k", "TFLOP", "core hours (this CPU)", "GPU seconds", "GB of rows"):
        table.add_column(name, justify="right")
    for r in rows:
        table.add_row(*(f"{value:,}" for value in r.values()))
    console.print(table)


def _print_curve(console: Console, n: int, rows: list[dict[str, float]]) -> None:
    table = Table(title=f"{n:,} rows: cost against k (auto in the middle)")
    for name in ("k", "fit s", "assign s", "pairs s", "G products", "recall"):
        table.add_column(name, justify="right")
    for r in rows:
        table.add_row(*(f"{value:,}" for value in r.values()))
    console.print(table)


if __name__ == "__main__":
    sys.exit(main())
