"""A Dockerfile's instructions, read from the file: tests run these and retype none."""

from __future__ import annotations

import io
import json
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from dockerfile_parse import DockerfileParser

VARIABLE = re.compile(r"\$\{(\w+)\}|\$(\w+)")
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"  # of Debian's images
FLAG = re.compile(r"--(\w+)=(\S+)\s+")


@dataclass(frozen=True)
class Step:
    """An instruction that changes files: RUN or COPY."""

    kind: str
    value: str  # the command, or the sources and the target
    flags: tuple[tuple[str, str], ...]  # --mount and --from, in order
    environment: dict[str, str]  # of ENV and ARG so far
    user: str
    workdir: str

    @property
    def title(self) -> str:
        """The instruction in one line."""
        return f"{self.kind} {' '.join(self.value.split())}"

    @property
    def mounts(self) -> list[dict[str, str]]:
        """The --mount flags by key."""
        return [
            dict(part.split("=", 1) for part in value.split(","))
            for name, value in self.flags
            if name == "mount"
        ]

    @property
    def source_stage(self) -> str | None:
        """The stage that COPY reads; None: the build's context."""
        return dict(self.flags).get("from")


@dataclass
class Stage:
    """What one FROM begins."""

    name: str
    parent: str
    steps: list[Step] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)  # ENV, without ARG
    labels: dict[str, str] = field(default_factory=dict)
    user: str = "0"
    workdir: str = "/"
    entrypoint: list[str] = field(default_factory=list)
    command: list[str] = field(default_factory=list)
    volumes: list[str] = field(default_factory=list)


def read(path: Path) -> list[Stage]:
    """The stages in order; the last one is the image. Raises ValueError for an instruction not known here."""
    parser = DockerfileParser(fileobj=io.BytesIO(path.read_bytes()))
    stages: list[Stage] = []
    before: dict[str, str] = {}  # ARG before the first FROM
    arguments: dict[str, str] = {}
    for instruction in parser.structure:
        kind, value = instruction["instruction"], instruction["value"]
        if kind == "COMMENT":
            continue
        if kind == "FROM":
            words = _filled(value, before).split()
            name = words[2] if len(words) == 3 else str(len(stages))
            stages.append(_stage(name, words[0], stages))
            arguments = {}
            continue
        if not stages:
            before.update(_pairs(value, {}))
            continue
        stage = stages[-1]
        known = {**arguments, **stage.environment}
        if kind == "ARG":
            arguments.update(_pairs(value, known))
        elif kind == "ENV":
            stage.environment.update(_pairs(value, known))
        elif kind == "LABEL":
            stage.labels.update(_pairs(value, known))
        elif kind == "USER":
            stage.user = value
        elif kind == "WORKDIR":
            stage.workdir = value
        elif kind == "VOLUME":
            stage.volumes = json.loads(value)
        elif kind == "ENTRYPOINT":
            stage.entrypoint = json.loads(value)
        elif kind == "CMD":
            stage.command = json.loads(value)
        elif kind in ("RUN", "COPY"):
            flags = []
            while found := FLAG.match(value):
                flags.append((found[1], found[2]))
                value = value[found.end() :]
            stage.steps.append(Step(kind, value, tuple(flags), known, stage.user, stage.workdir))
        else:
            raise ValueError(f"{path}: {kind} is not known to the tests")
    return stages


def _stage(name: str, parent: str, earlier: list[Stage]) -> Stage:
    """A stage with what it inherits from the stage that it builds on."""
    for other in earlier:
        if other.name == parent:
            return Stage(
                name, parent, [], dict(other.environment), dict(other.labels), other.user, other.workdir
            )
    return Stage(name, parent, environment={"PATH": PATH})


def _pairs(value: str, known: Mapping[str, str]) -> dict[str, str]:
    """Of `A=1 B="2 3"`, with $VARIABLES filled in."""
    pairs = (word.partition("=") for word in shlex.split(value))
    return {name: _filled(text, known) for name, _, text in pairs}


def _filled(text: str, known: Mapping[str, str]) -> str:
    return VARIABLE.sub(lambda found: known.get(found[1] or found[2], found[0]), text)
