"""Embedding with one and two single-threaded workers on two hosts, against as many bare models.

    python -m benchmarks.scaling --shards 12 --rounds 3

The hosts are two Ray nodes of one CPU each, on addresses of their own. The runs are whole runs of `made
curate`; the ledger says when each worker began and ended each shard. The rate of a run is the sum of its
workers' rates while all of them work: what a long run has, which the start of the second worker and the last
shards of a short one would hide. A bare model is a process that does nothing but the model's forward pass on
one thread; the rate of two is the sum of theirs. Each node and each bare model has a core of its own, so that
a worker that is alone does not decode on a core that is idle.

Each round measures one and two of both in turn, the bare models on the idle cluster before and after a run:
both lose what Ray, PostgreSQL and Prefect's server take of the two cores when nothing runs, which is the
head's in a job. Goal: the speed-up of made is at least 0.97 of that of the bare models. On a machine with
other work the bare models do not double either, so the ratio holds there too, with more noise.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import open_clip

from benchmarks.embed_data import model_files, photograph, shard_of
from made_core.ledger.ledger import Ledger
from made_core.ledger.postgres import embedded
from made_core.ledger.records import UnitStatus
from made_core.output import summary as summaries
from made_core.stages import EMBED
from tests.chaos.cluster import Cluster, Prefect, environment, wait_for

GOAL = 0.97
IMAGES_PER_SHARD, BATCH = 128, 8
BARE_IMAGES = 160  # of each bare model, before and again after a run
MODEL, NAME = "ViT-B-32", "vit-b-32-random"  # random weights
THREADS = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


@dataclass(frozen=True)
class Round:
    """Images per second, by number of workers."""

    ours: tuple[float, float]
    bare: tuple[float, float]
    busy: tuple[float, float]  # share of the workers' time in which they had a shard

    @property
    def ratio(self) -> float:
        """made's speed-up by the second worker, over the bare models'."""
        return (self.ours[1] / self.ours[0]) / (self.bare[1] / self.bare[0])


def bare(images: int, config: Path, checkpoint: Path) -> None:
    """One bare model: says that it is ready, waits for a line, and prints its images per second."""
    import torch

    from made_core import recipe
    from made_core.embed import encoder

    torch.set_num_threads(1)
    part = encoder.resolve(
        recipe.Encoder(
            model=NAME, config=str(config), pretrained=str(checkpoint), device="cpu", batch_size=BATCH,
            precision="fp32",
        )
    )  # fmt: skip
    loaded = encoder.load(part)
    pixels = loaded.room()
    with torch.inference_mode():
        loaded.forward(pixels)
        print("ready", flush=True)
        sys.stdin.readline()
        began = time.monotonic()
        for _ in range(images // BATCH):
            loaded.forward(pixels)
    print(images // BATCH * BATCH / (time.monotonic() - began), flush=True)


@contextmanager
def on_core(number: int) -> Iterator[None]:
    """Processes that are started inside run on one core."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {sorted(allowed)[number]})
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


def bare_rate(processes: int, images: int, weights: tuple[Path, Path]) -> float:
    """Images per second of several bare models together.

    Args:
        images: of each.
        weights: the model's config and checkpoint.
    """
    command = [sys.executable, "-m", "benchmarks.scaling", "--bare", str(images), *map(str, weights)]
    started = []
    for core in range(processes):
        with on_core(core):
            started.append(
                subprocess.Popen(command, env={**os.environ, **THREADS}, stdin=subprocess.PIPE,
                                 stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
            )  # fmt: skip
    for process in started:
        assert process.stdout is not None
        if process.stdout.readline() != "ready\n":
            raise RuntimeError("a bare model did not start")
    for process in started:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    return sum(float(process.communicate()[0]) for process in started)


@dataclass(frozen=True)
class Place:
    """What the runs share."""

    folder: Path
    shards: Path
    weights: tuple[Path, Path]  # the model's config and checkpoint
    ledger_url: str
    prefect_url: str


def rates(place: Place, name: str, workers: int) -> tuple[float, float, float]:
    """Images per second of bare models and of a run's workers, and the workers' share of time with a shard.

    Args:
        name: of the run's folder.
        workers: on as many nodes.
    """
    folder, weights = place.folder / name, place.weights
    (folder / "scratch").mkdir(parents=True)
    shared = environment(folder, folder / "scratch", place.ledger_url, place.prefect_url)
    cluster = Cluster(folder, {**shared, **THREADS}, workers)
    command = [
        str(Path(sys.executable).with_name("made")), "curate",
        "--source", str(place.shards), "--output", f"{folder}/out",
        "--set", f"encoder.model={NAME}", "--set", f"encoder.config={weights[0]}",
        "--set", f"encoder.pretrained={weights[1]}", "--set", "encoder.precision=fp32",
        "--set", f"encoder.batch_size={BATCH}", "--set", "encoder.captions=skip", "--set", "audit.queries=0",
        "--set", "work.shards_per_task=8", "--set", "clusters.k=4", "--set", "admission.require_stats=false",
    ]  # fmt: skip
    try:
        nodes, cluster.nodes = cluster.nodes, []
        cluster.start()
        cluster.nodes = nodes
        for core, node in enumerate(nodes):
            with on_core(core):
                cluster.start_node(node)
        wait_for(lambda: all(cluster.raylets(node) for node in cluster.nodes), 60, "the worker nodes")
        alone = bare_rate(workers, BARE_IMAGES, weights)
        done = subprocess.run(
            command, env={**cluster.environment, "MADE_RAY_ADDRESS": cluster.address},
            capture_output=True, text=True,
        )  # fmt: skip
        alone = statistics.mean((alone, bare_rate(workers, BARE_IMAGES, weights)))
    finally:
        cluster.stop()
    if done.returncode:
        raise RuntimeError(f"made curate failed: {done.stderr[-2000:]}")
    found = summaries.read(f"{folder}/out")
    assert found is not None
    with closing(Ledger.open(place.ledger_url)) as ledger:
        units = [u for u in ledger.progress.slowest(found.run, 100_000) if u.stage == EMBED.name]
    return (alone, *together(units, workers))


def together(units: Sequence[UnitStatus], workers: int) -> tuple[float, float]:
    """The sum of the workers' rates while all of them work, and the share of that time with a shard."""
    by_worker: dict[str, list[tuple[float, float, int]]] = {}
    for unit in units:
        assert unit.host and unit.started_at and unit.finished_at
        times = unit.started_at.timestamp(), unit.finished_at.timestamp()
        by_worker.setdefault(unit.host, []).append((*times, unit.samples))
    if len(by_worker) != workers:
        raise RuntimeError(f"{len(by_worker)} of {workers} workers embedded")
    begin = max(min(start for start, _, _ in done) for done in by_worker.values())
    end = min(max(stop for _, stop, _ in done) for done in by_worker.values())
    rates, busy = [], []
    for done in by_worker.values():
        inside = sorted(unit for unit in done if unit[0] >= begin and unit[1] <= end)
        span = inside[-1][1] - inside[0][0]
        rates.append(sum(samples for _, _, samples in inside) / span)
        busy.append(sum(stop - start for start, stop, _ in inside) / span)
    return sum(rates), statistics.mean(busy)


def measure(shards: int, rounds: int) -> list[Round]:
    """The rounds, printed as they end."""
    results = []
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        (folder / "shards").mkdir()
        for n in range(shards):
            images = [photograph(n * IMAGES_PER_SHARD + i) for i in range(IMAGES_PER_SHARD)]
            shard_of(folder / "shards" / f"{n:05d}.tar", IMAGES_PER_SHARD, images)
        weights = model_files(folder, NAME, open_clip.get_model_config(MODEL))
        url = stack.enter_context(embedded(folder / "home"))
        prefect = Prefect(folder)
        prefect.start()
        stack.callback(prefect.server.kill)
        wait_for(prefect.answers, 180, "Prefect's server")
        place = Place(folder, folder / "shards", weights, url, prefect.url)
        print(f"{'round':>5} {'bare 1':>7} {'bare 2':>7} {'made 1':>7} {'made 2':>7} {'speed-ups':>11} "
              f"{'ratio':>6} {'busy 1':>6} {'busy 2':>6}  images/s")  # fmt: skip
        for number in range(rounds):
            one, two = (rates(place, f"{number}-{workers}", workers) for workers in (1, 2))
            r = Round(bare=(one[0], two[0]), ours=(one[1], two[1]), busy=(one[2], two[2]))
            results.append(r)
            print(f"{number:>5} {r.bare[0]:>7.2f} {r.bare[1]:>7.2f} {r.ours[0]:>7.2f} {r.ours[1]:>7.2f} "
                  f"{r.bare[1] / r.bare[0]:>5.2f} {r.ours[1] / r.ours[0]:>5.2f} {r.ratio:>6.3f} "
                  f"{r.busy[0]:>6.3f} {r.busy[1]:>6.3f}", flush=True)  # fmt: skip
    return results


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--shards", type=int, default=12, help=f"of {IMAGES_PER_SHARD} images")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--bare", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    if args.bare:
        images, config, checkpoint = args.bare
        bare(int(images), Path(config), Path(checkpoint))
        return 0
    results = measure(args.shards, args.rounds)
    ratio = statistics.median(r.ratio for r in results)
    passed = ratio >= GOAL
    print(f"made's speed-up over the bare models', median of {len(results)}: {ratio:.3f} (goal >= {GOAL})")
    print(json.dumps({
        "benchmark": "scaling", "model": MODEL, "images": args.shards * IMAGES_PER_SHARD,
        "ratio": round(ratio, 4), "rounds": [asdict(r) for r in results], "passed": passed,
    }))  # fmt: skip
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
