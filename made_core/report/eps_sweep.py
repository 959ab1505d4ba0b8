"""A sweep: what several eps would keep, from the pairs that a run stored, and what each takes first."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

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
from made_core.report.report import Example

EXAMPLES = 6  # pairs of images shown for each eps
STEPS = 8  # of a sweep that names no eps
LEFT, RIGHT, TOP, BOTTOM, WIDTH, HEIGHT = 52, 740, 16, 240, 760, 290  # of the plot, in its view box


@dataclass(frozen=True)
class Step:
    """What one eps does to the run's own samples."""

    eps: float
    samples: int
    kept: int
    near_duplicates: int
    examples: tuple[tuple[Example, Example], ...]  # (kept, removed): removed here, kept at the eps before

    @property
    def share(self) -> float:
        """Of the samples, those that are kept."""
        return self.kept / self.samples if self.samples else 0.0


def every(eps: Sequence[float], eps_max: float) -> list[float]:
    """The eps to try, ascending, each once; none given: STEPS even ones up to `eps_max`.

    Raises:
        UserError: one is not between 0 and `eps_max`, down to which the pairs are stored.
    """
    for value in eps:
        if not 0 < value <= eps_max + 1e-12:
            raise UserError(f"eps is {value:g}, allowed: above 0, up to the run's eps_max, {eps_max:g}")
    return sorted(set(eps)) or [eps_max * n / STEPS for n in range(1, STEPS + 1)]


def sweep(
    corpus: Corpus, inputs: ResolveInputs, every_eps: Sequence[float], shown: int = EXAMPLES
) -> list[Step]:
    """What each of the ascending eps does; nothing is embedded, clustered or compared again.

    The examples are the least similar ones: where a wider eps begins to take what differs.

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
        stands = decided.representative[removed]
        examples = _examples(corpus, inputs, removed, stands, shown) if shown else ()
        steps.append(Step(eps, len(reason), int((reason == KEPT).sum()), int(near.sum()), examples))
        before = near
    return steps


def _examples(
    corpus: Corpus, inputs: ResolveInputs, removed: Gids, stands: Gids, shown: int
) -> tuple[tuple[Example, Example], ...]:
    first = inputs.identities.canonical
    value = similarities(corpus, first[removed], first[stands])
    least = np.lexsort((removed, value))[:shown]
    wanted = np.unique(np.concatenate([removed[least], stands[least]]))
    found = examples.images(corpus, wanted)
    return tuple(
        (found[int(stands[n])], examples.compared(found[int(removed[n])], float(value[n]))) for n in least
    )


class SweepStep(BaseModel):
    """What one eps does, without images."""

    eps: float
    samples: int
    kept: int
    share: float
    near_duplicates: int


class Sweep(BaseModel):
    """What sweep.json holds."""

    run: str
    decisions_digest: str  # of the decisions that the sweep is about
    steps: list[SweepStep]


def document(run: Summary, steps: Sequence[Step]) -> Sweep:
    """The steps for a JSON file, without images."""
    rows = [
        SweepStep(
            eps=round(s.eps, 12), samples=s.samples, kept=s.kept, share=round(s.share, 6),
            near_duplicates=s.near_duplicates,
        )
        for s in steps
    ]  # fmt: skip
    return Sweep(run=run.run, decisions_digest=run.decisions_digest, steps=rows)


def render(run: Summary, steps: Sequence[Step]) -> str:
    """The sweep as an HTML page that needs no other file. `run`: the run's summary."""
    return html.fill(
        "sweep.html.j2",
        run=run,
        steps=steps,
        plot=_plot(steps),
        size=(WIDTH, HEIGHT),
        box={"left": LEFT, "right": RIGHT, "top": TOP, "bottom": BOTTOM},
    )


def _plot(steps: Sequence[Step]) -> dict[str, Any]:
    """The plot's points and ticks, in units of its view box: eps across, kept share up."""
    widest = steps[-1].eps
    lowest = math.floor(20 * min(s.share for s in steps)) / 20  # to a whole twentieth
    span = max(0.05, 1 - lowest)

    def y(share: float) -> float:
        return round(BOTTOM - (share - lowest) / span * (BOTTOM - TOP), 2)

    points = [(round(LEFT + s.eps / widest * (RIGHT - LEFT), 2), y(s.share), s) for s in steps]
    ticks = [lowest + span * n / 5 for n in range(6)]
    return {
        "line": " ".join(f"{x},{at}" for x, at, _ in points),
        "points": points,
        "ys": [(y(tick), f"{100 * tick:.0f} %") for tick in ticks],
    }
