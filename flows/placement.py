"""Which workers a run has on which nodes of the cluster."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import ray

from made_core.recipe import Work


@dataclass(frozen=True)
class Node:
    """A living node of the Ray cluster."""

    name: str
    cpus: float
    gpus: float


def nodes() -> list[Node]:
    """The living nodes that have CPUs."""
    return [
        Node(str(n["NodeManagerAddress"]), float(n["Resources"]["CPU"]), float(n["Resources"].get("GPU", 0)))
        for n in ray.nodes()
        if n["Alive"] and n["Resources"].get("CPU")
    ]


def plan(nodes: Sequence[Node], work: Work) -> list[str]:
    """Sentences: how many workers of what size run on each node, and what stays unused.

    A task takes `work.cpus_per_task` CPUs and, in the stage embed, `work.gpus_per_task` GPUs.
    """
    embed = [_fit(node, work.cpus_per_task, work.gpus_per_task) for node in nodes]
    other = [_fit(node, work.cpus_per_task, 0) for node in nodes]
    size = f"{work.cpus_per_task:g} CPU" + (f" and {work.gpus_per_task:g} GPU" if work.gpus_per_task else "")
    lines = [f"plan: {sum(embed)} embed workers of {size} on {len(nodes)} nodes ({_by_node(nodes, embed)})"]
    if embed != other:
        lines.append(f"plan: {sum(other)} workers of {work.cpus_per_task:g} CPU in other stages")
    gpus = sum(node.gpus for node in nodes)
    used = sum(embed) * work.gpus_per_task
    if gpus > used:
        lines.append(f"warning: {gpus - used:g} of {gpus:g} GPUs are not used: see work.gpus_per_task")
    if not sum(embed):
        lines.append("warning: no node has room for an embed worker: the run waits for one")
    if work.tasks_in_flight < max(sum(embed), sum(other)):
        lines.append(f"warning: work.tasks_in_flight ({work.tasks_in_flight}) is less than the workers")
    return lines


def _fit(node: Node, cpus: float, gpus: float) -> int:
    return int(min(node.cpus / cpus, node.gpus / gpus if gpus else float("inf")))


def _by_node(nodes: Sequence[Node], workers: Sequence[int]) -> str:
    return ", ".join(f"{n} on {node.name}" for node, n in zip(nodes, workers, strict=True))
