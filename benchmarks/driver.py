"""What the driver of a run costs: its CPU share with 1 to 64 workers whose encoder sleeps.

    python -m benchmarks.driver --workers 1,2,4,8,64 --seconds 2 --units 4

Each worker takes a unit, sleeps as long as a shard would take, and reports it; the engine, Prefect and the
ledger are real. CPU time is that of the driver's process alone, so a busy machine changes it little. The
estimate for 64 nodes takes the CPU time for each task and each second from these measurements, 4 GPUs a node,
and shards of 90 s (10,000 samples at 112 a second, the figure of NeMo Curator for one GPU).
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import tempfile
import time
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path

import ray
from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect_ray.task_runners import PrefectRayFuture

from flows import servers
from flows.engine import Engine, runner
from flows.progress import Display
from made_core.ledger.ledger import Ledger
from made_core.ledger.postgres import embedded
from made_core.recipe import Recipe
from made_core.recipe_file import validate
from made_core.stages import EMBED, EmbedOutput
from made_core.types import Encoding, FileRef, Shard, Unit
from tasks.run_units import Progress, RunContext, run_units

GOAL_SHARE = 0.5  # of one core, at 64 nodes
NODES, GPUS, SHARD_SECONDS = 64, 4, 90.0


@dataclass(frozen=True)
class Cost:
    """A measurement."""

    workers: int
    tasks: int
    units: int
    seconds: float  # of wall
    cpu: float  # seconds of the driver's process

    @property
    def share(self) -> float:
        """Of one core."""
        return self.cpu / self.seconds


@task(name="embed", cache_policy=NO_CACHE, persist_result=False)
def sleep(context: RunContext, scope: str, keys: list[str], seconds: float) -> None:
    """Embeds by sleeping."""

    def one(unit: Unit, progress: Progress) -> EmbedOutput:
        time.sleep(seconds)
        rows, metadata = (
            FileRef(f"/none/{unit.name}.{end}", 1, "0" * 32, "0" * 8) for end in ("npy", "parquet")
        )
        return EmbedOutput(10_000, rows, metadata, 0, 0, 0)

    run_units(context, EMBED, scope, keys, one)


def measure(url: str, recipe: Recipe, workers: int, per_worker: int, seconds: float) -> Cost:
    """The driver's cost while `workers` sleep through `per_worker` units each.

    The first units of every worker are not measured: its process starts.
    """
    encoding = Encoding("0" * 16, "sleeps", 8, 8, "cpu", "fp32", 1, 0.1, 0.1, True)
    costs: list[Cost] = []

    @flow(name="driver", task_runner=runner(), persist_result=False)
    def drive() -> None:
        with closing(Ledger.open(url)) as ledger, Display() as display:
            for count in (1, per_worker):
                scope = f"sleep-{workers}-{count}"
                keys = [f"{scope}-{n:032d}"[-32:] for n in range(workers * count)]
                run = ledger.runs.begin(scope, scope, {}, scope, "store", "bench", 3600, False)
                shards = [Shard(f"{n:08d}", f"s3://x/{n:08d}.tar", key, 1, 1) for n, key in enumerate(keys)]
                ledger.runs.put_shards(run, shards)
                engine = Engine(ledger, RunContext(run, url, recipe, encoding), display)
                submitted = 0

                def submit(
                    batch: list[str], scope: str = scope, context: RunContext = engine.context
                ) -> PrefectRayFuture:
                    nonlocal submitted
                    submitted += 1
                    return sleep.submit(context, scope, batch, seconds)

                began, cpu = time.monotonic(), time.process_time()
                engine.units(EMBED, scope, keys, submit)
                costs.append(Cost(workers, submitted, len(keys), time.monotonic() - began,
                                  time.process_time() - cpu))  # fmt: skip

    ray.init(
        "local", num_cpus=workers, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR
    )
    try:
        drive()
    finally:
        ray.shutdown()
    return costs[-1]


def at_nodes(costs: list[Cost], shards_per_task: int) -> float:
    """The driver's share of a core with `NODES` nodes, from the cost of a second and of a task.

    Two unknowns by least squares over the measurements: cpu = rest * seconds + each * tasks.
    """
    import numpy as np

    left = np.array([[c.seconds, c.tasks] for c in costs])
    (rest, each), *_ = np.linalg.lstsq(left, np.array([c.cpu for c in costs]), rcond=None)
    tasks_per_second = NODES * GPUS / (SHARD_SECONDS * shards_per_task)
    return float(max(0.0, rest) + max(0.0, each) * tasks_per_second)


def main() -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--workers", default="1,2,4,8,64", help="numbers of workers")
    parser.add_argument("--seconds", type=float, default=2.0, help="how long a unit sleeps")
    parser.add_argument("--units", type=int, default=8, help="units for each worker")
    args = parser.parse_args()
    costs = []
    print(
        f"{'workers':>7} {'units':>6} {'tasks':>6} {'wall s':>7} {'driver CPU s':>12} {'share of a core':>15}"
    )
    with tempfile.TemporaryDirectory() as folder, embedded(Path(folder) / "home") as url, servers.prefect():
        recipe = validate(
            {"sources": ["/none"], "output": "/none", "work": {"tasks_in_flight": 256}}, "bench"
        )
        for workers in map(int, args.workers.split(",")):
            cost = measure(url, recipe, workers, args.units, args.seconds)
            costs.append(cost)
            print(f"{cost.workers:>7} {cost.units:>6} {cost.tasks:>6} {cost.seconds:>7.1f} {cost.cpu:>12.2f} "
                  f"{cost.share:>15.3f}", flush=True)  # fmt: skip
    share = at_nodes(costs, recipe.work.shards_per_task)
    passed = share <= GOAL_SHARE
    print(f"the driver at {NODES} nodes with {GPUS} GPUs, {SHARD_SECONDS:g} s a shard: {share:.3f} of a core "
          f"(goal <= {GOAL_SHARE})")  # fmt: skip
    print(json.dumps({"benchmark": "driver", "seconds": args.seconds, "share_at_64_nodes": round(share, 4),
                      "rows": [{**asdict(c), "share": round(c.share, 4)} for c in costs],
                      "passed": passed}))  # fmt: skip
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
