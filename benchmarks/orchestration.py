"""What Prefect and the ledger cost for each shard: N shards with trivial work, N = 10 to 10,000.

    python benchmarks/orchestration.py --shards 10000

The engine runs the units of one stage as in a run: Prefect tasks on a local Ray, a Prefect server and a
ledger on PostgreSQL. Only the work of a unit is left out: it returns at once what an embedded shard would.
Prints a table and one JSON line; exits 0 only if the marginal wall time of a shard, between the two largest
sizes, is within the goal.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
os.environ.setdefault("PREFECT_SERVER_LOGGING_LEVEL", "CRITICAL")

from prefect import flow, get_client, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.context import FlowRunContext

from flows import servers
from flows.engine import Engine, on_ray, run_task
from flows.progress import Display
from made_core.ledger.ledger import Ledger
from made_core.ledger.postgres import embedded
from made_core.recipe import Recipe
from made_core.stages import EMBED, EmbedOutput
from made_core.types import Encoding, FileRef, RunState, Unit
from tasks.run_units import Progress, RunContext, run_units

SIZES = (10, 100, 1_000, 10_000)
GOAL_MS = 5.0  # marginal wall time of a shard
ENCODING = Encoding("0" * 16, "none", 8, 8, "cpu", "fp32", 1, 0.1, 0.1, True)


@dataclass(frozen=True)
class Row:
    """One size."""

    shards: int
    seconds: float  # wall time of the stage, Ray and its workers being up
    cpu_seconds: float  # of this process in that time: the flow
    task_runs: int  # in Prefect
    memory_mb: float  # the largest resident size of this process until then


@task(name="embed", cache_policy=NO_CACHE, persist_result=False)
def trivial(context: RunContext, scope: str, keys: list[str]) -> None:
    """Claims and finishes units whose work takes no time."""

    def do(unit: Unit, progress: Progress) -> EmbedOutput:
        progress(1)
        rows, metadata = (FileRef(f"/{unit.name}.{end}", 1, "0" * 32, "0" * 8) for end in ("npy", "parquet"))
        return EmbedOutput(1, rows, metadata, 0, 0, 0)

    run_units(context, EMBED, scope, keys, do)


@task(name="warm", cache_policy=NO_CACHE, persist_result=False)
def warm() -> None:
    """Starts a worker, which imports what the tasks import."""


@flow(name="orchestration", persist_result=False)
def stage(url: str, shards: int) -> Row:
    """Runs the units of one stage."""
    context = FlowRunContext.get()
    assert context is not None and context.flow_run is not None
    with closing(Ledger.open(url)) as ledger, on_ray(), Display() as display:
        for _ in range(os.cpu_count() or 1):
            run_task(warm)
        name = f"bench-{shards}"
        recipe = Recipe(sources=("/in",), output=f"/{name}", store="/store")
        run = ledger.runs.begin(name, name, {}, recipe.output, "/store", "bench", 3600, False)
        engine = Engine(ledger, RunContext(run, url, recipe, ENCODING, shards=shards), display)
        keys = [f"{number:032d}" for number in range(shards)]
        start, cpu = time.perf_counter(), time.process_time()
        engine.units(EMBED, name, keys, lambda some: trivial.submit(engine.context, name, some))
        seconds, used = time.perf_counter() - start, time.process_time() - cpu
        tally = ledger.units.tally(EMBED, name, keys)
        assert tally.samples == shards, tally
        ledger.runs.end(run, "bench", RunState.COMPLETED, {}, None)
        with get_client(sync_client=True) as client:
            found = client.read_flow_run(context.flow_run.id)
        runs = _task_runs(str(found.id))
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return Row(shards, round(seconds, 2), round(used, 2), runs, round(memory, 1))


def _task_runs(flow_run: str) -> int:
    """The task runs that Prefect's server has recorded for a flow run, when their number is stable."""
    with get_client(sync_client=True) as client:
        only = FlowRunFilter(id=FlowRunFilterId(any_=[flow_run]))
        before = -1
        while True:  # the server records them from a queue
            body = {"flow_runs": only.model_dump(mode="json", exclude_unset=True)}
            now = int(client.request("POST", "/task_runs/count", json=body).json())
            if now == before:
                return now - (os.cpu_count() or 1)  # without the warming ones
            before = now
            time.sleep(1)


@contextmanager
def both_servers() -> Iterator[str]:
    """The ledger's URL; PostgreSQL and Prefect's server are running."""
    with tempfile.TemporaryDirectory() as folder, embedded(Path(folder) / "home") as url, servers.prefect():
        yield url


def main() -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--shards", type=int, default=SIZES[-1], help="the largest size")
    most = parser.parse_args().shards
    sizes = [size for size in SIZES if size < most] + [most]
    rows: list[Row] = []
    with both_servers() as url:
        print(f"{'shards':>8} {'seconds':>9} {'CPU s':>7} {'task runs':>9} {'memory MB':>9}")
        for size in sizes:
            row = stage(url, size)
            rows.append(row)
            print(f"{row.shards:>8} {row.seconds:>9.2f} {row.cpu_seconds:>7.2f} {row.task_runs:>9} "
                  f"{row.memory_mb:>9.0f}", flush=True)  # fmt: skip
    first, last = rows[-2:]
    marginal = 1000 * (last.seconds - first.seconds) / (last.shards - first.shards)
    passed = marginal < GOAL_MS
    print(f"a shard more: {marginal:.2f} ms of wall time (goal < {GOAL_MS:g})")
    print(json.dumps({"benchmark": "orchestration", "rows": [asdict(row) for row in rows],
                      "marginal_ms": round(marginal, 3), "passed": passed}))  # fmt: skip
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
