"""The cost of a ledger transition at 1,000 to 100,000 units, and the latency of status queries.

    python benchmarks/ledger.py --units 100000 --workers 64 --seed 0

On its own PostgreSQL: registers the units, claims them in batches from concurrent workers, renews and
finishes them (1 in 100 fails permanently), then runs the queries of a status page. Prints a table and one
JSON line; exits 0 only if both goals are met.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from made_core.errors import CorruptShard
from made_core.ledger.ledger import Ledger
from made_core.ledger.postgres import embedded
from made_core.stages import EMBED, EmbedOutput
from made_core.types import FileRef, RunState, Shard

SIZES = (1_000, 10_000, 100_000)
BATCH = 50  # units per task
CLAIM = 25  # units per claim
GOAL_RATIO = 2  # cost of a transition at the most units / at the fewest
GOAL_STATUS = 1  # seconds per query


def work(ledger: Ledger, scope: str, keys: list[str], seed: int) -> int:
    """The ledger calls of a task for its batch; returns the number of transitions."""
    dice, left, transitions = random.Random(seed), len(keys), 0
    while left:
        units = ledger.units.claim(EMBED, scope, keys, CLAIM, 600, "bench")
        ledger.units.renew(units, 600, [0] * len(units))
        for unit in units:
            if dice.random() < 0.01:
                ledger.units.fail(unit, CorruptShard(unit.key), 0)
            else:
                rows, metadata = (
                    FileRef(f"/store/{unit.name}.{end}", 1 << 20, "0" * 32, "0" * 8)
                    for end in ("npy", "parquet")
                )
                ledger.units.finish(unit, EmbedOutput(10_000, rows, metadata, 1_000, 0, 0))
        left -= len(units)
        transitions += 2 + len(units)
    return transitions


def measure(ledger: Ledger, units: int, workers: int, seed: int) -> dict[str, Any]:
    """Measures registration, transitions and queries at one size, in seconds unless named otherwise."""
    scope = f"{seed}-{units}"
    keys = [f"{scope}-{number:032d}"[-32:] for number in range(units)]
    random.Random(seed).shuffle(keys)
    run = ledger.runs.begin(scope, scope, {}, scope, "store", "bench", 3600, False)
    shards = [Shard(f"{n:08d}", f"s3://x/{n:08d}.tar", key, 1, 1) for n, key in enumerate(keys)]
    start = time.perf_counter()
    ledger.runs.put_shards(run, shards)
    ledger.units.put(run, EMBED, scope, keys, 3)
    register = time.perf_counter() - start
    batches = [keys[start : start + BATCH] for start in range(0, units, BATCH)]
    with ThreadPoolExecutor(workers) as pool:
        seconds, counts = clock(
            lambda: list(pool.map(lambda n: work(ledger, scope, batches[n], seed + n), range(len(batches))))
        )
    queries: dict[str, Callable[[], object]] = {
        "stages": lambda: ledger.progress.of(run),
        "tally": lambda: ledger.units.tally(EMBED, scope, None),
        "tally of keys": lambda: ledger.units.tally(EMBED, scope, keys),
        "pending": lambda: ledger.units.pending(EMBED, scope, None),
        "failures": lambda: ledger.progress.failures(run, 20),
        "slowest": lambda: ledger.progress.slowest(run, 20),
        "runs": ledger.runs.all,
    }
    status = {name: min(clock(ask)[0] for _ in range(3)) for name, ask in queries.items()}
    ledger.runs.end(run, "bench", RunState.COMPLETED, {}, None)
    return {
        "units": units,
        "register_s": round(register, 3),
        "transitions": sum(counts),
        "per_s": round(sum(counts) / seconds, 1),
        "ms_each": round(1000 * seconds / sum(counts), 4),
        "status_s": {name: round(value, 4) for name, value in status.items()},
    }


def clock(call: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds and result of a call."""
    start = time.perf_counter()
    result = call()
    return time.perf_counter() - start, result


def main() -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--units", type=int, default=SIZES[-1], help="the largest size")
    parser.add_argument("--workers", type=int, default=64, help="concurrent workers")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    sizes = [size for size in SIZES if size < args.units] + [args.units]

    rows = []
    with tempfile.TemporaryDirectory() as folder, embedded(Path(folder) / "home") as url:
        ledger = Ledger.open(url)
        measure(ledger, 500, args.workers, args.seed)  # warm
        print(f"{'units':>8} {'register s':>10} {'transitions/s':>13} {'ms each':>8}  status s")
        for size in sizes:
            row = measure(ledger, size, args.workers, args.seed)
            if size <= 1_000:  # takes about a second: use the median of three
                more = [measure(ledger, size, args.workers, args.seed + n) for n in (1, 2)]
                row["ms_each"] = statistics.median(r["ms_each"] for r in (row, *more))
                row["per_s"] = round(1000 / row["ms_each"], 1)
            rows.append(row)
            asked = ", ".join(f"{name} {value:.3f}" for name, value in row["status_s"].items())
            print(f"{size:>8} {row['register_s']:>10.2f} {row['per_s']:>13.0f} "
                  f"{row['ms_each']:>8.3f}  {asked}", flush=True)  # fmt: skip

    ratio = rows[-1]["ms_each"] / rows[0]["ms_each"]
    slowest = max(max(row["status_s"].values()) for row in rows)
    passed = ratio <= GOAL_RATIO and slowest < GOAL_STATUS
    print(f"cost of a transition, {sizes[-1]} units / {sizes[0]}: {ratio:.2f} (goal <= {GOAL_RATIO})")
    print(f"slowest query: {slowest:.3f} s (goal < {GOAL_STATUS})")
    print(json.dumps({"benchmark": "ledger", "workers": args.workers, "seed": args.seed,
                      "rows": rows, "ratio": round(ratio, 3), "status_s": slowest,
                      "passed": passed}))  # fmt: skip
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
