"""The sweep: what several values of eps would keep, decided from the pairs that a run stored."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pydantic import BaseModel

from made_core.corpus.corpus import Corpus, Gids
from made_core.dedup.decide import NO_SAMPLE
from made_core.dedup.inputs import ResolveInputs
from made_core.errors import UserError
from made_core.output.decision_tables import similarities
from made_core.output.summary import Summary
from made_core.reasons import KEPT, NEAR_DUPLICATE
from made_core.report import examples, html
from made_core.report.charts import Box
from made_core.report.report import Example

EXAMPLES = 24  # pairs of images shown per eps
STEPS = 8  # of a sweep without given eps
BOX = Box(left=52, right=740, top=16, bottom=240)
WIDTH, HEIGHT = 760, 290  # of the plot's view box


@dataclass(frozen=True)
class Step:
    """The result of one eps for the run's own samples."""

    eps: float
    samples: int
    kept: int
    near_duplicates: int
    examples: tuple[tuple[Example, Example], ...]  # (kept, removed at this eps but not at the previous one)

    @property
    def share(self) -> float:
        """The share of the samples that is kept."""
        return self.kept / self.samples if self.samples else 0.0


def every(eps: Sequence[float], eps_max: float) -> list[float]:
    """The eps to try, ascending without repetitions; without any, STEPS evenly spaced up to `eps_max`.

    Raises:
        UserError: an eps is not above 0 and up to `eps_max`: other pairs are not stored.
    """
    for value in eps:
        if not 0 < value <= eps_max + 1e-12:
            raise UserError(f"eps is {value:g}, allowed: above 0, up to the run's eps_max, {eps_max:g}")
    return sorted(set(eps)) or [eps_max * n / STEPS for n in range(1, STEPS + 1)]


def sweep(
    corpus: Corpus, inputs: ResolveInputs, every_eps: Sequence[float], shown: int = EXAMPLES
) -> list[Step]:
    """The result of each eps, which must ascend. Embeddings, clusters and stored pairs are reused.

    The examples are drawn at random, seeded, from all samples that an eps removes in addition: the share of
    wrong pairs among them is that of the whole band.

    Raises:
        DamagedFile: a stored file is missing or damaged.
    """
    steps: list[Step] = []
    new = slice(corpus.begin, None)
    before = np.zeros(corpus.samples - corpus.begin, bool)
    for eps in every_eps:
        decided = inputs.decisions(eps)
        reason = decided.reason[new]
        near = reason == NEAR_DUPLICATE.code
        removed = np.flatnonzero(near & ~before & (decided.representative[new] != NO_SAMPLE)) + corpus.begin
        some = examples.drawn(removed, shown)
        pairs = _examples(corpus, inputs, some, decided.representative[some])
        steps.append(Step(eps, len(reason), int((reason == KEPT).sum()), int(near.sum()), pairs))
        before = near
    return steps


def _examples(
    corpus: Corpus, inputs: ResolveInputs, removed: Gids, representatives: Gids
) -> tuple[tuple[Example, Example], ...]:
    canonical = inputs.identities.canonical
    value = similarities(corpus, canonical[removed], canonical[representatives])
    return tuple(examples.beside(corpus, removed, representatives, value))


class SweepStep(BaseModel):
    """The result of one eps, without images."""

    eps: float
    samples: int
    kept: int
    share: float
    near_duplicates: int


class Sweep(BaseModel):
    """The content of sweep.json."""

    run: str
    decisions_digest: str  # of the run's decisions
    steps: list[SweepStep]


def document(run: Summary, steps: Sequence[Step]) -> Sweep:
    """The content of sweep.json for these steps."""
    rows = [
        SweepStep(
            eps=round(s.eps, 12), samples=s.samples, kept=s.kept, share=round(s.share, 6),
            near_duplicates=s.near_duplicates,
        )
        for s in steps
    ]  # fmt: skip
    return Sweep(run=run.run, decisions_digest=run.decisions_digest, steps=rows)


def render(run: Summary, steps: Sequence[Step]) -> str:
    """The sweep as a self-contained HTML page. `run`: the run's summary."""
    return html.fill(
        "sweep.html.j2",
        run=run,
        steps=steps,
        plot=_plot(steps),
        size=(WIDTH, HEIGHT),
        box=BOX,
    )


@dataclass(frozen=True)
class Plot:
    """The plot of kept share over eps, in units of its view box."""

    line: str  # points of an SVG polyline
    points: tuple[tuple[float, float, Step], ...]  # (x, y, step)
    ys: tuple[tuple[float, str], ...]  # grid lines: (y, label)


def _plot(steps: Sequence[Step]) -> Plot:
    widest = steps[-1].eps
    lowest = math.floor(20 * min(s.share for s in steps)) / 20  # to a whole twentieth
    span = max(0.05, 1 - lowest)

    def y(share: float) -> float:
        return round(BOX.bottom - (share - lowest) / span * (BOX.bottom - BOX.top), 2)

    points = [(round(BOX.left + s.eps / widest * (BOX.right - BOX.left), 2), y(s.share), s) for s in steps]
    ticks = [lowest + span * n / 5 for n in range(6)]
    return Plot(
        line=" ".join(f"{x},{at}" for x, at, _ in points),
        points=tuple(points),
        ys=tuple((y(tick), f"{100 * tick:.0f} %") for tick in ticks),
    )
