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
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from rich.console import Console
from rich.table import Table

from tests.containers import apptainer, image, service
from tests.support.checks import ROOT
from tests.support.containers import definition, dockerfile
from tests.support.containers.build import Builder

BUILD = ROOT / "build" / "containers"
DOCKER = ROOT / "docker"
DOCKERFILE, COMPOSE, DEFINITION = DOCKER / "Dockerfile", DOCKER / "compose.yaml", DOCKER / "made.def"


def main() -> int:
    """Builds, tries and composes; returns the exit code."""
    if os.geteuid() != 0 or shutil.which("debootstrap") is None:
        print("skipped: needs root, for mounts, and debootstrap")
        return 0
    work = BUILD / "work"
    shutil.rmtree(work, ignore_errors=True)
    seconds: dict[str, float] = {}

    @contextmanager
    def timed(name: str) -> Iterator[None]:
        began = time.monotonic()
        print(f"{name} ...", flush=True)
        yield
        seconds[name] = round(time.monotonic() - began, 1)

    try:
        folder = work / "docker"
        folder.mkdir(parents=True)
        builder = Builder(folder, ROOT, BUILD / "cache")
        stages = dockerfile.read(DOCKERFILE)
        with timed("build"):
            for stage in stages:
                builder.build(stage)
        last = stages[-1]
        layers = builder.built[last.name]
        sizes = {layer.title: layer.size for layer in layers}
        packages = image.packages(layers)
        _show(sizes)
        with timed("commands"):
            image.commands(folder, layers, last)
        with timed("compose"):
            healthy = service.curates(COMPOSE, layers, last, folder / "compose")
        shutil.rmtree(folder)
        folder = work / "apptainer"
        folder.mkdir()
        wanted = definition.read(DEFINITION)
        with timed("apptainer build"):
            layers = apptainer.build(Builder(folder, ROOT, BUILD / "cache"), wanted, folder)
        with timed("apptainer commands"):
            apptainer.commands(folder, layers, wanted)
        with timed("apptainer in a job"):
            apptainer.in_a_job(folder, layers, wanted)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    print(json.dumps({"bytes": sizes, "packages": packages, "seconds": seconds, "healthy": healthy}))
    return 0


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
