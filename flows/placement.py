"""Which workers a run has on which nodes of the cluster."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import ray

from made_core.errors import PlanError
from made_core.recipe import BUILTIN_ENCODERS, Recipe, Work


@dataclass(frozen=True)
class Node:
    """A living node of the Ray cluster."""

    name: str
    cpus: float
    gpus: float


@dataclass(frozen=True)
class Resources:
    """What Ray reserves for a task."""

    cpus: float
    gpus: float = 0


ONE_CPU = Resources(cpus=1)
# Of a GPU for a task, and the CPUs that it must have then: a process decodes 1,400 to 1,900 images per second
# on a GPU node, whatever its CPUs (docs/benchmarks.md), and the GPU idles while it begins and ends a shard.
SHARES = ((0.25, 3), (0.5, 2), (1, 0))


def of_embed(work: Work) -> Resources:
    """What an embed task takes, and so do `prepare` and `fit`. `auto` that is not settled: no GPU."""
    cpus, gpus = work.embed_cpus_per_task, work.gpus_per_task
    return Resources(work.cpus_per_task if cpus == "auto" else cpus, 0 if gpus == "auto" else gpus)


def settled(nodes: Sequence[Node], recipe: Recipe) -> Recipe:
    """The recipe with the resources of embed tasks settled for this cluster.

    gpus_per_task auto: the first of SHARES with which each task has its CPUs, where the encoder can use a GPU
    and a node has one. embed_cpus_per_task auto: the task's share of its node's CPUs, on the node where it is
    smallest; without a GPU, cpus_per_task. device auto: cuda where tasks reserve a GPU, which must then
    work; else cpu, since a task without a GPU must not use one.

    Raises:
        PlanError: no node can run a task; it would wait for ever.
    """
    work, encoder = recipe.work, recipe.encoder
    usable = encoder.device != "cpu" and encoder.model not in BUILTIN_ENCODERS
    gpus = work.gpus_per_task
    if gpus == "auto":
        gpus = _share(nodes) if usable else 0
    if encoder.device == "cuda" and usable and not gpus:
        missing = (
            "no node of the cluster has one" if work.gpus_per_task == "auto" else "work.gpus_per_task is 0"
        )
        raise PlanError(f"encoder.device is cuda, which needs a GPU, but {missing}")
    cpus = work.embed_cpus_per_task
    if cpus == "auto":
        shares = [node.cpus * gpus / node.gpus for node in nodes if gpus and node.gpus >= gpus]
        share = min(shares, default=work.cpus_per_task)
        cpus = float(int(share)) if share > 1 else share
    changed = work.model_copy(update={"gpus_per_task": gpus, "embed_cpus_per_task": cpus})
    for wanted, fields in (
        (of_embed(changed), "work.embed_cpus_per_task and work.gpus_per_task"),
        (Resources(work.cpus_per_task), "work.cpus_per_task"),
    ):
        if nodes and not any(_fit(node, wanted) for node in nodes):  # none: the run waits for the first
            have = ", ".join(f"{n.name} has {n.cpus:g} CPU and {n.gpus:g} GPU" for n in nodes[:4])
            raise PlanError(f"no node has room for a task of {_size(wanted)}: {have}; see {fields}")
    device = encoder.device
    if device == "auto":
        device = "cuda" if gpus and usable else "cpu"
    return recipe.model_copy(
        update={"work": changed, "encoder": encoder.model_copy(update={"device": device})}
    )


def _share(nodes: Sequence[Node]) -> float:
    """GPUs for a task; 0 without a node that has one."""
    each = [node.cpus / node.gpus for node in nodes if node.gpus >= 1]
    return next(share for share, cpus in SHARES if share * min(each) >= cpus) if each else 0


def nodes() -> list[Node]:
    """The living nodes that have CPUs."""
    return [
        Node(str(n["NodeManagerAddress"]), float(n["Resources"]["CPU"]), float(n["Resources"].get("GPU", 0)))
        for n in ray.nodes()
        if n["Alive"] and n["Resources"].get("CPU")
    ]


def plan(nodes: Sequence[Node], work: Work) -> list[str]:
    """Sentences: how many workers of what size run on each node, and what stays unused.

    A task takes `work.cpus_per_task` CPUs; in the stage embed, what `of_embed` says.
    """
    wanted = of_embed(work)
    embed = [_fit(node, wanted) for node in nodes]
    other = [_fit(node, Resources(work.cpus_per_task)) for node in nodes]
    where = f"{len(nodes)} node{'s' * (len(nodes) != 1)} ({_by_node(nodes, embed)})"
    lines = [f"plan: {sum(embed)} embed workers of {_size(wanted)} on {where}"]
    if embed != other:
        lines.append(f"plan: {sum(other)} workers of {work.cpus_per_task:g} CPU in other stages")
    gpus = sum(node.gpus for node in nodes)
    used = sum(embed) * wanted.gpus
    if gpus > used:
        lines.append(f"warning: {gpus - used:g} of {gpus:g} GPUs are not used: see work.gpus_per_task")
    if not sum(embed):
        lines.append("warning: no node has room for an embed worker: the run waits for one")
    if work.tasks_in_flight < max(sum(embed), sum(other)):
        lines.append(f"warning: work.tasks_in_flight ({work.tasks_in_flight}) is less than the workers")
    return lines


def workers(nodes: Sequence[Node], wanted: Resources) -> int:
    """How many tasks run at the same time."""
    return sum(_fit(node, wanted) for node in nodes)


def _fit(node: Node, wanted: Resources) -> int:
    by_cpus = int(node.cpus / wanted.cpus)
    if not wanted.gpus:
        return by_cpus
    if wanted.gpus < 1:  # a task's part is of one GPU: three times 0.3 of each
        return min(by_cpus, int(node.gpus) * int(1 / wanted.gpus))
    return min(by_cpus, int(node.gpus / wanted.gpus))


def _size(wanted: Resources) -> str:
    return f"{wanted.cpus:g} CPU" + (f" and {wanted.gpus:g} GPU" if wanted.gpus else "")


def _by_node(nodes: Sequence[Node], workers: Sequence[int]) -> str:
    return ", ".join(f"{n} on {node.name}" for node, n in zip(nodes, workers, strict=True))
