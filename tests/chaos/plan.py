"""What is killed, where, and in which order: a seeded plan over all kinds and all named points."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import cycle

from made_core.stages import CAPTIONS, EMBED, STAGES, WRITE

# worker: a Ray worker; raylet: a worker node's; head: Ray's GCS; flow: the process that runs the
# run; postgres: the postmaster; all by SIGKILL. disk: full for seconds; cut: the database out of reach.
KINDS = ("worker", "raylet", "head", "flow", "postgres", "disk", "cut")
OF_A_UNIT = ("before-file", "before-row", "after-row")
OF_PUBLISH = ("before-moves", "amid-moves", "after-moves", "before-summary")
POINTS = (  # the sample is embedded by an encoder without captions
    *((stage.name, when) for stage in STAGES if stage is not CAPTIONS for when in OF_A_UNIT),
    *((stage.name, "mid-shard") for stage in (EMBED, WRITE)),
    *(("publish", when) for when in OF_PUBLISH),
)
ANY = ("any", "random-time")
ROUND = 14  # most kills per round


@dataclass(frozen=True)
class Kill:
    """One kill: its kind and its time."""

    kind: str
    stage: str
    when: str

    def __str__(self) -> str:
        return f"{self.kind:8} {self.stage} {self.when}"

    @property
    def point(self) -> tuple[str, str]:
        """The place where it is carried out."""
        return self.stage, self.when

    @property
    def name(self) -> str:
        """The file name; at most one kill is armed per point."""
        return f"{self.stage}.{self.when}.{self.kind}"


# The first round: a kill of every kind. The only one in embed is of a worker in mid-shard, so that the
# events of this round show what a failure costs. The tests run it without the last two.
FIRST = (
    Kill("worker", "embed", "mid-shard"),
    Kill("postgres", "assign", "before-row"),
    Kill("disk", "pairs", "before-file"),
    Kill("cut", "audit", "before-row"),
    Kill("flow", "write", "mid-shard"),
    Kill("raylet", "tabulate", "before-file"),
    Kill("disk", "publish", "after-moves"),
    Kill("worker", "publish", "amid-moves"),
    Kill("head", "resolve", "before-row"),
)


def plan(kills: int, seed: int, kinds: tuple[str, ...] = KINDS) -> list[Kill]:
    """`kills` kills: FIRST, a worker at every point, then the other kinds at points and random times."""
    dice = random.Random(seed)
    every = [Kill("worker", *point) for point in dice.sample(POINTS, len(POINTS))]
    others = _others(dice, [kind for kind in kinds if kind != "worker"])
    strewn = (Kill(kind, *ANY) for kind in cycle(kinds))
    found = [kill for kill in FIRST if kill.kind in kinds]
    workers = (kill for kill in every if kill not in found)
    turns = cycle((workers, others, others, workers, others, workers, others, strewn))
    while len(found) < kills:
        kill = next(next(turns), None)  # workers end, the others do not
        found += [kill] if kill is not None else []
    return found[:kills]


def _others(dice: random.Random, kinds: list[str]) -> Iterator[Kill]:
    """The kinds in turn, each at points of its own shuffling."""
    points = {kind: cycle(dice.sample(POINTS, len(POINTS))) for kind in kinds}
    for kind in cycle(kinds):
        yield Kill(kind, *next(points[kind]))


def deal(waiting: list[Kill], most: int) -> list[Kill]:
    """Takes the kills of a round out of `waiting`: at most `most`, one per point."""
    taken: list[Kill] = []
    for kill in list(waiting):
        if len(taken) < most and (kill.point == ANY or all(kill.point != k.point for k in taken)):
            taken.append(kill)
            waiting.remove(kill)
    return taken
