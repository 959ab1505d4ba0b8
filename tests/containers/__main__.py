"""The image and the composed service without an engine: `python -m tests.containers`. Needs root.

Runs the Dockerfile's own steps in a system by debootstrap, made's commands in the result, offline and as the
image's user, and then compose.yaml's services as processes, which curate a sample. Prints a table of the
layers and one JSON line; exits 0 only if all of it works. docs/containers.md says what it shows and what not.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Callable

from rich.console import Console
from rich.table import Table

from tests.containers import image, service
from tests.support.checks import ROOT
from tests.support.containers import dockerfile
from tests.support.containers.build import Builder

BUILD = ROOT / "build" / "containers"
DOCKERFILE, COMPOSE = ROOT / "docker" / "Dockerfile", ROOT / "docker" / "compose.yaml"


def main() -> int:
    """Builds, tries and composes; returns the exit code."""
    if os.geteuid() != 0 or shutil.which("debootstrap") is None:
        print("skipped: needs root, for mounts, and debootstrap")
        return 0
    work = BUILD / "work"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    stages = dockerfile.read(DOCKERFILE)
    builder = Builder(work, ROOT, BUILD / "cache")
    seconds: dict[str, float] = {}

    def timed(name: str, do: Callable[[], None]) -> None:
        began = time.monotonic()
        print(f"{name} ...", flush=True)
        do()
        seconds[name] = round(time.monotonic() - began, 1)

    def build() -> None:
        for stage in stages:
            builder.build(stage)

    try:
        timed("build", build)
        last = stages[-1]
        layers = builder.built[last.name]
        sizes = {layer.title: layer.size for layer in layers}
        table = Table(title="layers of the image")
        table.add_column("step", overflow="ellipsis", no_wrap=True)
        table.add_column("MB", justify="right")
        for title, size in sizes.items():
            table.add_row(title[:80], f"{size / 1e6:,.1f}")
        table.add_row("all", f"{sum(sizes.values()) / 1e6:,.1f}")
        Console(width=110).print(table)
        packages = image.packages(builder, layers, last)
        timed("commands", lambda: image.commands(work, layers, last))
        timed("compose", lambda: service.curates(COMPOSE, layers, last, work / "compose"))
    finally:
        shutil.rmtree(work, ignore_errors=True)
    print(json.dumps({"bytes": sizes, "packages": packages, "seconds": seconds}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
