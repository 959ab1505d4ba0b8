"""Runs a Dockerfile's steps without an engine: each step is a layer over a system by debootstrap."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.containers.dockerfile import Stage, Step
from tests.support.containers.root import Layer, Mount, Root


@dataclass
class Builder:
    """Builds stages in `folder`. `context`: the folder that COPY reads; `cache`: kept between builds."""

    folder: Path
    context: Path
    cache: Path
    built: dict[str, tuple[Layer, ...]] = field(default_factory=dict)  # by stage

    def base(self, image: str) -> Layer:
        """Debian's minimal system, made once per cache. Raises ValueError for another image."""
        name, _, tag = image.partition(":")
        suite = tag.removesuffix("-slim")
        if name != "debian" or not suite:
            raise ValueError(f"base image {image}: expected debian:SUITE-slim")
        root = self.cache / suite
        if not root.exists():
            fresh = self.cache / f"{suite}.new"
            shutil.rmtree(fresh, ignore_errors=True)
            fresh.mkdir(parents=True)
            subprocess.run(["debootstrap", "--variant=minbase", suite, str(fresh)],
                           check=True, stdout=subprocess.DEVNULL)  # fmt: skip
            fresh.rename(root)
        return Layer(f"FROM {image}", root)

    def build(self, stage: Stage) -> tuple[Layer, ...]:
        """Runs the steps of a stage; returns its layers, those of its parent first."""
        layers = self.built[stage.parent] if stage.parent in self.built else (self.base(stage.parent),)
        for number, step in enumerate(stage.steps):
            upper = self.folder / f"{len(self.built)}.{number}"
            upper.mkdir(parents=True)
            is_copy = step.kind == "COPY"
            root = Root(
                layers, self.folder, step.environment, step.user, step.workdir, upper,
                copies=self._copies(step) if is_copy else (), mounts=() if is_copy else self._mounts(step),
            )  # fmt: skip
            root.run([] if is_copy else ["/bin/sh", "-c", step.value])
            layers = (*layers, Layer(step.title, upper))
        self.built[stage.name] = layers
        return layers

    def _copies(self, step: Step) -> list[Mount]:
        *sources, target = shlex.split(step.value)
        inside = os.path.join(step.workdir, target)
        if step.source_stage:
            return [Mount(Path(source), inside, self.built[step.source_stage]) for source in sources]
        return [Mount(self.context / source, inside) for source in sources]

    def _mounts(self, step: Step) -> list[Mount]:
        mounts = []
        for flag in step.mounts:
            if flag["type"] == "cache":
                kept = self.cache / "cache" / flag["target"].strip("/").replace("/", "-")
                kept.mkdir(parents=True, exist_ok=True)
                mounts.append(Mount(kept, flag["target"]))
            else:
                mounts.append(Mount(Path(flag["source"]), flag["target"], self.built[flag["from"]]))
        return mounts
