"""The time to the first sample: the commands of a small run, as whole processes, and their timeline.

    python benchmarks/startup.py

In an empty MADE_HOME: the sample of `make demo` is curated, and curated again into another output; then the
first command is repeated and finds all done; then the commands that only read. Prints a table with wall and
CPU time, the timeline of the second run, and one JSON line; exits 0 only if the goals hold. They are for two
cores and nothing else running.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import pyarrow.parquet as pq

MADE = str(Path(sys.executable).with_name("made"))
RUN, AGAIN, READ = 25.0, 12.0, 2.0  # goals, seconds


@dataclass(frozen=True)
class Command:
    """One command, as measured."""

    name: str
    seconds: float  # wall time
    cpu_seconds: float  # of its process and all that it waited for
    goal: float | None  # seconds
    lines: list[tuple[float, str]] = field(repr=False)  # seconds since its start, and what it printed then

    @property
    def holds(self) -> bool:
        """Whether it is within its goal."""
        return self.goal is None or self.seconds <= self.goal


def measured(name: str, goal: float | None, environment: dict[str, str], *arguments: str) -> Command:
    """Runs `made` with arguments. Raises CalledProcessError if it fails."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    lines: list[tuple[float, str]] = []
    with subprocess.Popen(
        [MADE, *arguments], env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            lines.append((round(time.perf_counter() - start, 2), line.rstrip()))
    seconds = time.perf_counter() - start
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, arguments, "\n".join(t for _, t in lines))
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Command(name, round(seconds, 2), round(used, 2), goal, lines)


def a_uid(output: Path) -> str:
    """The uid of a kept sample."""
    return str(pq.read_table(output / "keep.parquet", columns=["uid"])["uid"][0])


def timeline(lines: list[tuple[float, str]]) -> list[tuple[float, str]]:
    """The lines that say how far a run is."""
    wanted = re.compile(r"made: |run \S+: |loading |plan: |(\w+): 1 of 1|embed: (\d+) of \2,|shards: ")
    return [(seconds, line.strip()) for seconds, line in lines if wanted.match(line.strip())]


def main() -> int:
    """Returns the exit code."""
    argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0]).parse_args()
    with tempfile.TemporaryDirectory(prefix="made-") as name:
        folder = Path(name)
        own = {n: v for n, v in os.environ.items() if not n.startswith(("MADE_", "PREFECT_", "RAY_"))}
        own |= {"MADE_HOME": name, "PREFECT_HOME": f"{name}/prefect", "PYTHONUNBUFFERED": "1"}
        measured("sample", None, own, "sample", str(folder / "sample"))
        source = ("curate", "--source", str(folder / "sample" / "shards"), "--output")
        commands = [
            measured("curate, the first of all", None, own, *source, str(folder / "first")),
            measured("curate", RUN, own, *source, str(folder / "second")),
            measured("curate, all done", AGAIN, own, *source, str(folder / "second")),
            measured("status", READ, own, "status"),
            measured("why", READ, own, "why", a_uid(folder / "second"), "--output", str(folder / "second")),
            measured("sample --help", READ, own, "sample", "--help"),
        ]
    print(f"{'made':<26} {'seconds':>8} {'CPU s':>7} {'goal':>6}")
    for command in commands:
        goal = "" if command.goal is None else f"<= {command.goal:g}"
        print(f"{command.name:<26} {command.seconds:>8.2f} {command.cpu_seconds:>7.2f} {goal:>6}")
    print("\ncurate:")
    for seconds, line in timeline(commands[1].lines):
        print(f"{seconds:>8.2f} {line.replace(name, '')}")
    passed = all(command.holds for command in commands)
    rows = [{n: v for n, v in asdict(command).items() if n != "lines"} for command in commands]
    print(json.dumps({"benchmark": "startup", "commands": rows, "passed": passed}))
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
