"""The embed stage on a GPU against the bare model there, and k-means on it.

    python -m benchmarks.gpu --models ViT-B-32 ViT-H-14 --cores 6 16 --real FOLDER

For each model, with random weights: images per second of the bare image tower, the best of a grid of
precisions and batch sizes; then of the stage, from shards on a local disk to stored rows, as the recipe's
defaults settle it, by 1, 2 or 4 processes that share the GPU and the cores (work.gpus_per_task 1, .5, .25);
the share of time in which the GPU works, by nvidia-smi, and CPU time an image. Then k-means: FAISS on the GPU
against FAISS on as many CPU threads as a worker without GPU uses.

Prints a table and one JSON line; exits 0 only if the stage reaches 0.9 of the bare model wherever the cores
suffice: where as many as there are can decode as fast as the bare model computes.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from rich.console import Console
from rich.table import Table

from benchmarks.embed_data import images_of, shard_of

MODELS = ("ViT-B-32", "ViT-B-16", "ViT-L-14", "ViT-H-14")
PROCESSES = (1, 2, 4)
GOAL = 0.9
SAMPLES = 4096  # a shard
SHARDS = 3  # that each process embeds, at least
DECODED = 500  # images per second of a core, about: for how long to measure
KMEANS = ((256_000, 1000), (915_712, 3577))  # rows and clusters: 256 a cluster, as for 1 and 12.8 million


@dataclass(frozen=True)
class Stage:
    """The stage's speed with so many processes and cores."""

    model: str
    processes: int
    cores: int
    rate: float  # images per second
    of_bare: float
    cpu_ms: float  # an image
    system_ms: float  # of them in the kernel
    gpu_busy: float  # share of time, 0 to 1
    needed: float  # cores that decode as fast as the bare model computes

    @property
    def met(self) -> bool | None:
        """Whether it reaches the goal; None: the cores do not suffice."""
        return self.of_bare >= GOAL if self.needed <= self.cores else None


def started(*command: object, **environment: str) -> subprocess.Popen[str]:
    """A process of `benchmarks.gpu_run`, with these variables too."""
    words = [sys.executable, "-W", "ignore", "-m", "benchmarks.gpu_run", *map(str, command)]
    return subprocess.Popen(
        words, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, **environment}
    )


def told(process: subprocess.Popen[str], line: dict[str, Any] | None = None) -> dict[str, Any]:
    """The next line of a process, after it is given one."""
    assert process.stdin is not None and process.stdout is not None
    if line is not None:
        print(json.dumps(line), file=process.stdin, flush=True)
    text = process.stdout.readline()
    if not text:
        raise SystemExit(f"{process.args!r}: ended with {process.wait()}")
    found: dict[str, Any] = json.loads(text)
    return found


@contextmanager
def utilisation() -> Iterator[list[float]]:
    """What nvidia-smi says meanwhile, ten times a second: the share of time in which a kernel runs."""
    found: list[float] = []
    command = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "-lms", "100"]
    try:
        process = subprocess.Popen(command, text=True, stdout=subprocess.PIPE)
    except FileNotFoundError:
        yield found
        return

    def read(lines: IO[str]) -> None:
        for line in lines:
            if line.strip().isdigit():
                found.append(int(line) / 100)

    assert process.stdout is not None
    reader = threading.Thread(target=read, args=(process.stdout,))
    reader.start()
    try:
        yield found
    finally:
        process.terminate()
        process.wait()
        reader.join()


@dataclass(frozen=True)
class Measured:
    """What processes did together."""

    rate: float  # images per second
    user_ms: float  # CPU time an image
    system_ms: float
    gpu_busy: float  # share of time, 0 to 1


def measured(processes: list[subprocess.Popen[str]], cores: int, shards: list[str], folder: Path) -> Measured:
    """Embeds the shards, by each of these processes."""
    allowed = sorted(os.sched_getaffinity(0))[:cores]
    lines = [
        {"shards": shards, "threads": max(1, cores // len(processes)), "cores": allowed,
         "output": str(folder / f"rows-{number}")}
        for number in range(len(processes))
    ]  # fmt: skip
    with utilisation() as busy:
        for process, line in zip(processes, lines, strict=True):
            assert process.stdin is not None
            print(json.dumps(line), file=process.stdin, flush=True)
        found = [told(process) for process in processes]
    samples = sum(one["samples"] for one in found)
    middle = busy[2:-2] or [0.0]
    return Measured(
        samples / max(one["wall"] for one in found),
        1e3 * sum(one["user"] for one in found) / samples,
        1e3 * sum(one["system"] for one in found) / samples,
        sum(middle) / len(middle),
    )


def embedding(
    model: str, args: argparse.Namespace, shard: Path, folder: Path
) -> tuple[list[dict[str, Any]], list[Stage]]:
    """The bare model's speeds, and the stage's."""
    checkpoint = folder / f"{model}.pt"
    given = (model, checkpoint, "--device", args.device)
    process = started("bare", *given)
    text, _ = process.communicate()
    if process.returncode:
        raise SystemExit(f"bare {model}: ended with {process.returncode}")
    grid = [json.loads(line) for line in text.splitlines()]
    rate = max(one["rate"] for one in grid)
    workers = [started("stage", *given) for _ in range(max(args.processes))]
    settled = [told(worker) for worker in workers]
    print(f"{model}: {settled[0]}; bare {grid}", file=sys.stderr, flush=True)
    measured(workers, max(args.cores), [str(shard)], folder)  # the first use of a GPU takes longer
    found = []
    for cores in args.cores:
        for number in args.processes:
            images = args.seconds * min(rate, DECODED * cores)
            # All begin at once, with reading headers while the GPU idles, which they later do by turns.
            shards = [str(shard)] * max(SHARDS, round(images / args.samples / number))
            done = measured(workers[:number], cores, shards, folder)
            cpu_ms = done.user_ms + done.system_ms
            one = Stage(
                model, number, cores, done.rate, done.rate / rate, cpu_ms, done.system_ms, done.gpu_busy,
                rate * cpu_ms / 1e3,
            )  # fmt: skip
            print(one, file=sys.stderr, flush=True)
            found.append(one)
    for worker in workers:
        worker.communicate()
    checkpoint.unlink()
    return grid, found


def clustering(sizes: list[tuple[int, int]]) -> list[dict[str, Any]]:
    """k-means on the GPU, twice, and for the smallest size on the CPU."""
    found = []
    for number, (rows, clusters) in enumerate(sizes):
        for hidden in (False, False, True) if number == 0 else (False,):
            process = started("kmeans", rows, clusters, **({"CUDA_VISIBLE_DEVICES": ""} if hidden else {}))
            found.append({"rows": rows, "clusters": clusters, **told(process)})
            process.communicate()
            print(found[-1], file=sys.stderr, flush=True)
    return found


def table(
    grids: dict[str, list[dict[str, Any]]], stages: list[Stage], trained: list[dict[str, Any]]
) -> Table:
    """The figures."""
    result = Table(title="images per second")
    columns = ("", "processes", "cores", "images/s", "of bare", "GPU works", "CPU ms", "cores needed")
    for column in columns:
        result.add_column(column, justify="right" if column else "left", no_wrap=True)
    for model, grid in grids.items():
        best = max(grid, key=lambda one: one["rate"])
        result.add_row(f"{model} bare, {best['precision']}, {best['batch']}", "", "", f"{best['rate']:,.0f}")
        for one in stages:
            if one.model == model:
                result.add_row(
                    "  stage", f"{one.processes}", f"{one.cores}", f"{one.rate:,.0f}", f"{one.of_bare:.2f}",
                    f"{one.gpu_busy:.0%}", f"{one.cpu_ms:.2f}", f"{one.needed:.1f}",
                )  # fmt: skip
    for fit in trained:
        where = "GPU" if fit["gpus"] else "CPU"
        name = f"k-means, {fit['rows']:,} rows, k = {fit['clusters']:,}, {where}"
        result.add_row(name, "", "", f"{fit['seconds']:.1f} s")
    return result


def main() -> int:
    """Returns 0 if the goal is met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--models", nargs="*", default=list(MODELS))
    parser.add_argument("--processes", type=int, nargs="+", default=list(PROCESSES))
    parser.add_argument("--cores", type=int, nargs="+", default=[len(os.sched_getaffinity(0))])
    parser.add_argument("--seconds", type=float, default=4, help="of each measurement of the stage, about")
    parser.add_argument("--samples", type=int, default=SAMPLES, help="a shard")
    parser.add_argument("--clusters", type=int, nargs="*", default=[k for _, k in KMEANS])
    parser.add_argument("--real", type=Path, help="folder whose shards/ has images to use")
    parser.add_argument("--device", default="cuda", help="cpu: to try this out")
    args = parser.parse_args()
    grids: dict[str, list[dict[str, Any]]] = {}
    stages: list[Stage] = []
    with tempfile.TemporaryDirectory(prefix="made-gpu-", dir=os.environ.get("MADE_SCRATCH")) as name:
        folder = Path(name)
        shard = shard_of(folder / "shard.tar", args.samples, images_of(args.real))
        for model in args.models:
            grids[model], found = embedding(model, args, shard, folder)
            stages += found
    trained = clustering([(256 * k, k) for k in args.clusters])
    Console(width=120).print(table(grids, stages, trained))
    met = [one.met for one in stages if one.met is not None]
    print(json.dumps({
        "benchmark": "gpu", "bare": grids, "stages": [asdict(one) for one in stages], "kmeans": trained,
        "met": all(met),
    }))  # fmt: skip
    return 0 if all(met) else 1


if __name__ == "__main__":
    sys.exit(main())
