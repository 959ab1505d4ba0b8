"""The report's histogram of similarities: its shapes, as the template draws them."""

from __future__ import annotations

import math
from dataclasses import dataclass

LEFT, RIGHT, TOP, BOTTOM = 12, 20, 30, 250  # margins of the chart, in units of its view box
WIDTH, HEIGHT = 760, 300
VALLEY_PAIRS = 200  # fewer do not show a valley
SPAN = 5  # bins
DEEP = 3


@dataclass(frozen=True)
class Histogram:
    """How similar the stored pairs are."""

    edges: tuple[float, ...]  # n + 1 cosines, ascending; empty without a histogram
    counts: tuple[int, ...]  # n; pairs from edges[i] to edges[i + 1]
    threshold: float  # 1 - eps: pairs above it are duplicates

    def __post_init__(self) -> None:
        ascending = all(a < b for a, b in zip(self.edges, self.edges[1:], strict=False))
        if len(self.edges) != len(self.counts) + bool(self.edges) or not ascending:
            raise ValueError(
                f"{len(self.edges)} edges for {len(self.counts)} counts: expected one more edge than counts, "
                "ascending"
            )


@dataclass(frozen=True)
class Box:
    """The plot area, in units of the view box."""

    left: float
    right: float
    top: float
    bottom: float


@dataclass(frozen=True)
class Bar:
    """A bar: a bin, or the part of a bin on one side of the threshold."""

    low: float  # edge of the bin
    high: float  # edge of the bin
    count: int  # pairs in the bin
    above: bool  # above the threshold
    x: float
    y: float
    width: float


@dataclass(frozen=True)
class Chart:
    """The shapes of a histogram, in units of its view box."""

    bars: tuple[Bar, ...]  # without empty bins
    bins: tuple[tuple[float, float, int], ...]  # (low edge, high edge, pairs), with empty bins
    xs: tuple[tuple[float, str], ...]  # ticks: (x, label)
    ys: tuple[tuple[float, str], ...]  # grid lines: (y, label)
    box: Box
    size: tuple[int, int]  # of the view box: width, height
    threshold: float  # x of the threshold
    log: bool  # whether the vertical axis is logarithmic
    total: int  # pairs
    low: float  # lowest edge
    least: int  # pairs above the threshold, at least
    most: int  # and at most: more than `least` if the threshold cuts a bin


def valley(h: Histogram) -> float | None:
    """The eps at which pairs are rarest between near-equal images and the many that are merely alike.

    None if there is no clear valley: fewer than VALLEY_PAIRS pairs, or not DEEP times as many on both sides.
    """
    if len(h.counts) < SPAN or sum(h.counts) < VALLEY_PAIRS:
        return None
    # Over SPAN bins, so that one empty bin is no valley.
    sums = [sum(h.counts[n : n + SPAN]) for n in range(len(h.counts) - SPAN + 1)]
    lowest = min(range(len(sums)), key=lambda n: (sums[n], n))
    sides = max(sums[:lowest], default=0), max(sums[lowest + 1 :], default=0)
    if min(sides) < DEEP * max(1, sums[lowest]):
        return None
    middle = (h.edges[lowest] + h.edges[lowest + SPAN]) / 2
    return float(f"{1 - middle:.2g}")


def chart(h: Histogram) -> Chart | None:
    """The shapes of a histogram; None if it has no pairs."""
    total, top = sum(h.counts), max(h.counts, default=0)
    if not total:
        return None
    log = top > 50 * min(c for c in h.counts if c)
    low, high = min(h.edges[0], h.threshold), max(h.edges[-1], h.threshold)
    if log:  # starts at half a pair, so that a single pair has a bar
        decades = math.ceil(math.log10(top))
        heights = {10**d: f"{10**d:,}" for d in range(0, decades + 1, 1 + decades // 7)}
        span = math.log10(2 * max(top, *heights))
    else:
        step = max(1, round(step_of(top, 5)))
        heights = {v: f"{v:,}" for v in range(0, top + step, step)}
        span = max(heights)
    left = LEFT + 8 * max(len(text) for text in heights.values())

    def x(value: float) -> float:
        return round(left + (value - low) / (high - low) * (WIDTH - RIGHT - left), 2)

    def y(count: int) -> float:
        part = (math.log10(2 * count) if log else count) / span if count else 0
        return round(BOTTOM - part * (BOTTOM - TOP), 2)

    grid = step_of(high - low, 8)
    ticks = [i * grid for i in range(math.ceil(low / grid - 1e-6), int(high / grid + 1e-6) + 1)]
    bars, fuzz = [], 1e-9  # edges are computed, so comparisons need a tolerance
    for a, b, count in zip(h.edges, h.edges[1:], h.counts, strict=False):
        cut = a + fuzz < h.threshold < b - fuzz
        for start, end in ((a, h.threshold), (h.threshold, b)) if cut else ((a, b),):
            above = start > h.threshold - fuzz
            bars.append(Bar(a, b, count, above, x(start), y(count), round(x(end) - x(start), 2)))
    # The pairs of a bin that the threshold cuts may be on either side.
    unknown = sum(bar.count for bar in bars) - total
    most = sum(bar.count for bar in bars if bar.above)
    return Chart(
        bars=tuple(bar for bar in bars if bar.count),
        bins=tuple(zip(h.edges, h.edges[1:], h.counts, strict=False)),
        xs=tuple((x(t), f"{t:.{max(2, -math.floor(math.log10(grid)))}f}") for t in ticks),
        ys=tuple((y(count), text) for count, text in heights.items()),
        box=Box(left, WIDTH - RIGHT, TOP, BOTTOM),
        size=(WIDTH, HEIGHT),
        threshold=x(h.threshold),
        log=log,
        total=total,
        low=h.edges[0],
        least=most - unknown,
        most=most,
    )


def step_of(span: float, ticks: int) -> float:
    """The smallest of 1, 2, 5 x 10^n that divides `span` into at most `ticks` parts."""
    unit = 10.0 ** math.floor(math.log10(span / ticks))
    return next(unit * m for m in (1, 2, 5, 10) if unit * m >= span / ticks * (1 - 1e-9))
