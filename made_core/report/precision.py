"""The precision of removals, estimated from marked pairs: by band, and of all bands up to one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import BaseModel, Field

CONFIDENCE = 0.95  # of the intervals


class Precision(BaseModel):
    """The share of removals that are right, estimated from marked pairs."""

    marked: int
    right: int
    estimate: float | None = Field(description="Null: nothing is marked, in all or in one of the bands.")
    low: float | None = Field(description="Lower bound of the 95 % interval.")
    high: float | None = Field(description="Upper bound.")


@dataclass(frozen=True)
class MarkedBand:
    """A band of which some pairs are marked."""

    removed: int  # samples that the eps removes in addition
    marked: int  # pairs, drawn at random from these
    right: int  # of the marked ones

    @property
    def precision(self) -> Precision:
        """Of this band: Wilson's interval; exact if all its pairs are marked."""
        if not self.marked:
            return Precision(marked=0, right=0, estimate=None, low=None, high=None)
        share = self.right / self.marked
        low, high = (share, share) if self.marked >= self.removed else _wilson(self.right, self.marked)
        return Precision(marked=self.marked, right=self.right, estimate=share, low=low, high=high)


def up_to(bands: Sequence[MarkedBand]) -> Precision:
    """The precision of everything that these bands remove.

    Each band weighs as many samples as it removes. Of Wilson's limits l, u around each p, with weights w,
    the limits of the sum are p - sqrt(sum (w (p - l))^2) and p + sqrt(sum (w (u - p))^2) (Zou and Donner,
    Statistics in Medicine 27, 2008): for one band, Wilson's own.
    """
    some = [band for band in bands if band.removed]
    marked, right = sum(band.marked for band in some), sum(band.right for band in some)
    total = sum(band.removed for band in some)
    estimate = below = above = 0.0
    for band in some:
        part, weight = band.precision, band.removed / total
        if part.estimate is None or part.low is None or part.high is None:
            return Precision(marked=marked, right=right, estimate=None, low=None, high=None)
        estimate += weight * part.estimate
        below += (weight * (part.estimate - part.low)) ** 2
        above += (weight * (part.high - part.estimate)) ** 2
    if not some:
        return Precision(marked=0, right=0, estimate=None, low=None, high=None)
    low, high = estimate - math.sqrt(below), estimate + math.sqrt(above)
    return Precision(marked=marked, right=right, estimate=estimate, low=max(0.0, low), high=min(1.0, high))


def _wilson(right: int, marked: int) -> tuple[float, float]:
    from scipy.stats import binomtest  # takes half a second, and most commands need none of it

    interval = binomtest(right, marked).proportion_ci(CONFIDENCE, "wilson")
    return float(interval.low), float(interval.high)
