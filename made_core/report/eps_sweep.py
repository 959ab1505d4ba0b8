"""The sweep: what several values of eps would keep, decided from the pairs that a run stored."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from pydantic import BaseModel

from made_core.corpus.corpus import Corpus
from made_core.dedup.inputs import ResolveInputs
from made_core.output.summary import Summary
from made_core.report import bands, html, marks
from made_core.report.charts import Box, step_of
from made_core.report.marks import Marks
from made_core.report.precision import Precision, up_to
from made_core.report.report import Example

BOX = Box(left=52, right=740, top=16, bottom=240)
WIDTH, HEIGHT = 760, 290  # of the plot's view box


@dataclass(frozen=True)
class Step:
    """The result of one eps for the run's own samples."""

    eps: float
    samples: int
    kept: int
    near_duplicates: int
    in_addition: int  # near-duplicates that the previous eps keeps
    examples: tuple[tuple[Example, Example], ...]  # (kept, removed) of some of these
    precision: Precision | None = None  # of these, by marks; None: no marks file was given
    precision_up_to: Precision | None = None  # of everything up to this eps

    @property
    def share(self) -> float:
        """The share of the samples that is kept."""
        return self.kept / self.samples if self.samples else 0.0


def sweep(
    corpus: Corpus,
    inputs: ResolveInputs,
    every_eps: Sequence[float],
    marked: Marks | None = None,
    shown: int = bands.PAIRS,
) -> list[Step]:
    """The result of each eps, which must ascend, with at most `shown` examples of each band.

    Args:
        marked: of a review with these eps.

    Raises:
        UserError: the marks are not of these bands.
        DamagedFile: a stored file is missing or damaged.
    """
    every = list(bands.of(corpus, inputs, every_eps))
    counts = marks.counted(every, inputs.identities.uids, marked) if marked else []
    steps = [
        Step(
            b.eps, b.samples, b.kept, b.near_duplicates, len(b.removed), bands.pairs(corpus, inputs, b, shown)
        )
        for b in every
    ]
    if not counts:
        return steps
    return [
        replace(step, precision=counts[n].precision, precision_up_to=up_to(counts[: n + 1]))
        for n, step in enumerate(steps)
    ]


class SweepStep(BaseModel):
    """The result of one eps, without images."""

    eps: float
    samples: int
    kept: int
    share: float
    near_duplicates: int
    in_addition: int
    precision: Precision | None
    precision_up_to: Precision | None


class Sweep(BaseModel):
    """The content of sweep.json."""

    run: str
    decisions_digest: str  # of the run's decisions
    steps: list[SweepStep]


def document(run: Summary, steps: Sequence[Step]) -> Sweep:
    """The content of sweep.json for these steps."""
    rows = [
        SweepStep(
            eps=s.eps, samples=s.samples, kept=s.kept, share=round(s.share, 6),
            near_duplicates=s.near_duplicates, in_addition=s.in_addition,
            precision=s.precision, precision_up_to=s.precision_up_to,
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
        marked=any(step.precision for step in steps),
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
    least = min(0.95, min(s.share for s in steps))
    grid = step_of(1 - least, 5)
    ticks = range(math.floor(least / grid + 1e-9), round(1 / grid) + 1)
    lowest = ticks[0] * grid
    span = 1 - lowest

    def y(share: float) -> float:
        return round(BOX.bottom - (share - lowest) / span * (BOX.bottom - BOX.top), 2)

    points = [(round(BOX.left + s.eps / widest * (BOX.right - BOX.left), 2), y(s.share), s) for s in steps]
    return Plot(
        line=" ".join(f"{x},{at}" for x, at, _ in points),
        points=tuple(points),
        ys=tuple((y(n * grid), f"{100 * n * grid:.0f} %") for n in ticks),
    )
