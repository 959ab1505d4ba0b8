"""The image and the composed service without an engine: `python -m tests.containers`. Needs root.

Runs the Dockerfile's own steps in a system by debootstrap, and made's commands in the result, offline and as
the image's user; then compose.yaml's services as processes, which curate a sample; then the steps and the
commands of made.def. Prints a table of the layers and one JSON line; exits 0 only if all of it works.
docs/containers.md says what it shows and what not.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
from argparse import ArgumentParser
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.containers import apptainer, image, service
from tests.support.checks import ROOT
from tests.support.containers import definition, dockerfile
from tests.support.containers.build import Builder

BUILD = ROOT / "build" / "containers"
PARTS = ("docker", "apptainer")
SECONDS: dict[str, float] = {}  # by step
DOCKER = ROOT / "docker"
DOCKERFILE, COMPOSE, DEFINITION = DOCKER / "Dockerfile", DOCKER / "compose.yaml", DOCKER / "made.def"


def main() -> int:
    """Runs both parts, or the one that is named; returns the exit code."""
    parser = ArgumentParser(prog="python -m tests.containers", description=__doc__)
    parser.add_argument("--only", choices=PARTS, help="default: both")
    only = parser.parse_args().only
    if os.geteuid() != 0 or shutil.which("debootstrap") is None:
        print("not run: it needs root, for mounts, and debootstrap", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what was started is ended
    work = BUILD / "work"
    found: dict[str, object] = {}
    for part in [only] if only else PARTS:
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        try:
            found.update(_docker(work) if part == "docker" else _apptainer(work))
        finally:
            shutil.rmtree(work, ignore_errors=True)
    print(json.dumps({**found, "seconds": SECONDS}))
    return 0


def _docker(work: Path) -> dict[str, object]:
    builder, stages = Builder(work, ROOT, BUILD / "cache"), dockerfile.read(DOCKERFILE)
    with _timed("build"):
        for stage in stages:
            builder.build(stage)
    last = stages[-1]
    layers = builder.built[last.name]
    sizes = {layer.title: layer.size for layer in layers}
    _show(sizes)
    with _timed("commands"):
        image.commands(work, layers, last)
    with _timed("compose"):
        healthy = service.curates(COMPOSE, layers, last, work / "compose")
    return {"bytes": sizes, "packages": image.packages(layers), "healthy": healthy}


def _apptainer(work: Path) -> dict[str, object]:
    wanted = definition.read(DEFINITION)
    with _timed("apptainer build"):
        layers = apptainer.build(Builder(work, ROOT, BUILD / "cache"), wanted, work)
    with _timed("apptainer commands"):
        apptainer.commands(work, layers, wanted)
    with _timed("apptainer in a job"):
        apptainer.in_a_job(work, layers, wanted)
    return {"apptainer_bytes": sum(layer.size for layer in layers)}


@contextmanager
def _timed(name: str) -> Iterator[None]:
    began = time.monotonic()
    print(f"{name} ...", flush=True)
    yield
    SECONDS[name] = round(time.monotonic() - began, 1)


def _show(sizes: Mapping[str, int]) -> None:
    table = Table(title="layers of the image")
    table.add_column("step", overflow="ellipsis", no_wrap=True)
    table.add_column("MB", justify="right")
    for title, size in sizes.items():
        table.add_row(title[:80], f"{size / 1e6:,.1f}")
    table.add_row("all", f"{sum(sizes.values()) / 1e6:,.1f}")
    Console(width=110).print(table)


if __name__ == "__main__":
    sys.exit(main())
