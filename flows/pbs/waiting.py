"""Waiting until all nodes of a cluster are alive, and saying what it has."""

from __future__ import annotations

import getpass
import logging
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from flows.pbs import control
from flows.pbs.cluster import ClusterFolder, Head
from made_core.errors import MadeError

LOG_LINES = 30
GRACE = 5.0  # seconds in which an agent that has started connects
TICK = 1.0


@dataclass(frozen=True)
class Alive:
    """A node as Ray knows it."""

    address: str
    cpus: int
    gpus: int


def wait(folder: ClusterFolder, nodes: Sequence[str], seconds: float) -> None:
    """Waits until Ray counts as many living nodes as the job has, and prints them.

    Args:
        nodes: their names, the head first.
        folder: the variables of its `ray_environment` are set: Ray reads them when it is imported.
        seconds: the most to wait.

    Raises:
        MadeError: some are not alive in time, or their agents have ended; the ends of their logs are printed.
    """
    import ray

    head, end = folder.head(), time.monotonic() + seconds
    try:
        ray.init(address=head.ray_address, log_to_driver=False, logging_level=logging.ERROR)
    except ConnectionError as error:
        _print_logs(folder, [head.node])
        raise MadeError(f"Ray's head at {head.ray_address} does not answer: {error}") from None
    try:
        seen: set[str] = set()
        while len(alive := _alive()) < len(nodes):
            connected = {head.node, *control.status((head.address, head.desk_port), folder.token)}
            seen |= connected
            gone = sorted(seen - connected) or [n for n in nodes if _has_failed(folder, n, connected)]
            if gone or time.monotonic() > end:
                missing = gone or sorted(set(nodes) - connected) or list(nodes)
                _print_logs(folder, missing)
                why = "ended early" if gone else f"not alive after {seconds:g} s"
                raise MadeError(f"{len(alive)} of {len(nodes)} nodes are alive; {why}: {', '.join(missing)}")
            time.sleep(TICK)
    finally:
        ray.shutdown()
    _show(head, nodes, alive, folder)


def _alive() -> list[Alive]:
    import ray

    return [
        Alive(
            str(node["NodeManagerAddress"]), int(node["Resources"].get("CPU", 0)),
            int(node["Resources"].get("GPU", 0)),
        )
        for node in ray.nodes() if node["Alive"]
    ]  # fmt: skip


def _has_failed(folder: ClusterFolder, node: str, connected: set[str]) -> bool:
    """Whether the command that reached a node has ended, which the launcher marks with a file."""
    return node not in connected and folder.log(node).with_suffix(".ended").exists()


def _print_logs(folder: ClusterFolder, nodes: Sequence[str]) -> None:
    for node in nodes:
        log = folder.log(node)
        text = log.read_text(errors="replace") if log.exists() else ""
        print(f"---- {node}: {log}", file=sys.stderr)
        print("\n".join(text.splitlines()[-LOG_LINES:]) or "(empty: was the node reached?)", file=sys.stderr)


def _show(head: Head, nodes: Sequence[str], alive: Sequence[Alive], folder: ClusterFolder) -> None:
    console = Console(stderr=True)
    table = Table(title=f"Ray cluster {head.ray_address}: {len(alive)} nodes")
    table.add_column("address")
    table.add_column("CPUs", justify="right")
    table.add_column("GPUs", justify="right")
    for node in alive:
        table.add_row(node.address, f"{node.cpus}", f"{node.gpus}")
    table.add_row("all", f"{sum(n.cpus for n in alive)}", f"{sum(n.gpus for n in alive)}")
    console.print(table)

    def say(text: str) -> None:
        console.print(text, highlight=False, markup=False, soft_wrap=True)

    say(f"nodes: {', '.join(nodes)}")
    if (port := head.dashboard_port) is not None:
        login = os.environ.get("PBS_O_HOST") or os.environ.get("SLURM_SUBMIT_HOST") or "LOGIN-NODE"
        say(f"dashboard: http://127.0.0.1:{port} on {head.node}. To see it:")
        say(f"  on {login}:       ssh -N -L {port}:127.0.0.1:{port} {head.node}")
        say(f"  on your desktop:  ssh -N -L {port}:127.0.0.1:{port} {getpass.getuser()}@{login}")
        say(f"  then open http://127.0.0.1:{port} there; it asks for the token in {folder.token_path}")
