"""Commands of the scripts in deployments/pbs/: `python -m flows.pbs prepare|wait|environment FOLDER ...`."""

from __future__ import annotations

import shlex
import sys
import time
from argparse import ArgumentParser
from pathlib import Path

from flows.pbs import job, waiting
from flows.pbs.cluster import ClusterFolder, prepare
from made_core.errors import MadeError, UserError


def main(arguments: list[str]) -> int:
    """Runs a command; returns the exit code."""
    parser = ArgumentParser(prog="python -m flows.pbs", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, text in (
        ("prepare", "fill the folder of a new cluster"),
        ("environment", "print the exports of a running cluster, for a shell"),
        ("desk", "print host:port of the head's agent"),
        ("wait", "wait until the nodes are alive, and print them"),
    ):
        command = commands.add_parser(name, help=text)
        command.add_argument("folder", type=Path)
        if name == "wait":
            command.add_argument("--seconds", type=float, default=180)
            command.add_argument("nodes", nargs="+")
    given = parser.parse_args(arguments)
    try:
        if given.command == "prepare":
            prepare(given.folder, job.facts().shares)
        elif given.command == "environment":
            _environment(ClusterFolder(given.folder))
        elif given.command == "desk":
            head = ClusterFolder(given.folder).head()
            print(f"{head.address}:{head.desk_port}")
        else:
            waiting.wait(ClusterFolder(given.folder), given.nodes, given.seconds)
    except MadeError as error:
        print(f"made: {error}", file=sys.stderr)
        return 2 if isinstance(error, UserError) else 1
    return 0


def _environment(folder: ClusterFolder) -> None:
    head = folder.head()
    values = {
        **folder.ray_environment(),
        "MADE_RAY_ADDRESS": head.ray_address,
        "MADE_CLUSTER": str(folder.path),
    }
    if (at := job.stop_at(job.facts(), time.time())) is not None:
        values["MADE_STOP_AT"] = f"{at:.0f}"
    for name, value in values.items():
        print(f"export {name}={shlex.quote(value)}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
