"""The run's report: one HTML file with everything inside, for a person to read."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import Any

from made_core.errors import BadImage
from made_core.filters import FILTERS, by_name
from made_core.ingest import decode
from made_core.output.summary import SampleCounts, Summary
from made_core.reasons import UNREADABLE
from made_core.report.html import NOTHING, cosine, duration, fill, number
from made_core.types import RunState

MAX_PIXELS = 100_000_000  # of a image for a thumbnail: a bound on memory
PALETTE = 8  # colours for filters in style.css.j2, by position in FILTERS
LEFT, RIGHT, TOP, BOTTOM = 12, 20, 30, 250  # of the histogram, in units of its view box
WIDTH, HEIGHT = 760, 300


@dataclass(frozen=True)
class Example:
    """A sample in a group of duplicates."""

    uid: str
    shard: str  # the input shard's id
    key: str  # in the input shard
    similarity: float | None  # to the kept one; None for the kept one, or unknown
    caption: str
    jpeg: bytes | None  # a thumbnail; None: could not be read


@dataclass(frozen=True)
class Group:
    """A kept sample and those that it stands for."""

    kept: Example
    removed: tuple[Example, ...]  # the first few
    size: int  # all members, the kept one included


@dataclass(frozen=True)
class Unreadable:
    """Samples that failed with the same error."""

    error: str
    count: int
    examples: tuple[str, ...]  # "shard/key", the first few


@dataclass(frozen=True)
class Histogram:
    """How similar the found pairs are."""

    edges: tuple[float, ...]  # n + 1 cosines, ascending; none for no histogram
    counts: tuple[int, ...]  # n; pairs from edges[i] to edges[i + 1]
    threshold: float  # 1 - eps: pairs above are duplicates

    def __post_init__(self) -> None:
        ascending = all(a < b for a, b in zip(self.edges, self.edges[1:], strict=False))
        if len(self.edges) != len(self.counts) + bool(self.edges) or not ascending:
            raise ValueError(f"{len(self.counts)} counts need one more edge each, ascending")


def thumbnail(data: bytes, side: int = 160) -> bytes | None:
    """A JPEG of the image as the encoder sees it, at most `side` x `side` pixels.

    None if `data` is no image, a damaged one, or one of more than MAX_PIXELS pixels.
    """
    try:
        image = decode.decode(data, MAX_PIXELS)
    except BadImage:
        return None
    image.thumbnail((side, side))
    out = BytesIO()
    image.save(out, "JPEG", quality=80)
    return out.getvalue()


def render(
    summary: Summary,
    histogram: Histogram,
    groups: Sequence[Group],
    unreadable: Sequence[Unreadable],
    failed_shards: Sequence[tuple[str, str]],
) -> str:
    """The report as HTML that needs no other file and can be encoded as UTF-8.

    Args:
        summary: of the run.
        histogram: of all stored pairs. groups: the largest first, shown in this order.
        unreadable: by error. failed_shards: (shard, error).
    """
    return fill(
        "report.html.j2",
        summary=summary,
        failures=summary.state is RunState.COMPLETED_WITH_FAILURES,
        outcomes=_outcomes(summary.samples),
        chart=_chart(histogram),
        threshold=histogram.threshold,
        groups=groups,
        unreadable=unreadable,
        failed_shards=failed_shards,
        facts=_facts(summary),
        stages=summary.seconds_by_stage,
        busy=sum(summary.seconds_by_stage.values()),
    )


def _outcomes(samples: SampleCounts) -> list[dict[str, Any]]:
    """What became of the samples: the kept ones first, then by count; `start` is in samples."""
    dropped = sorted(samples.dropped.items(), key=lambda item: -item[1])
    counts = [("kept", samples.kept), *dropped, (UNREADABLE.name, samples.unreadable)]
    result, start = [], 0
    for name, count in counts:
        label, meaning = _words(name)
        row = {"colour": _colour(name), "label": label, "meaning": meaning}
        result.append(row | {"count": count, "start": start})
        start += count
    return result


def _words(outcome: str) -> tuple[str, str]:
    """Label and meaning of `kept` or a reason; of a reason of another version, what its name tells."""
    if outcome == "kept":
        return "Kept", "in the output"
    reason = by_name(outcome)
    return (reason.label, reason.meaning) if reason else (outcome.replace("_", " ").capitalize(), "")


def _colour(outcome: str) -> str:
    """The name of its colour in style.css.j2: filters take theirs from the palette in turn."""
    for position, f in enumerate(FILTERS):
        if f.reason.name == outcome:
            return f"filter-{position % PALETTE}"
    return outcome if outcome == "kept" or by_name(outcome) else "other"


def _facts(summary: Summary) -> dict[str, list[tuple[str, str]]]:
    """Title -> (label, text) of the facts that are known."""
    encoder, clusters, dedup, shards = summary.encoder, summary.clusters, summary.dedup, summary.shards
    default = " (the encoder's default)" if dedup.eps_is_default else ""
    rate = summary.samples.in_ / summary.seconds if summary.seconds else None
    rate = round(rate) if rate and rate >= 10 else rate
    facts: dict[str, list[tuple[str, object]]] = {
        "Encoder": [
            ("Model", encoder.model),
            ("Dimensions", encoder.dim),
            ("Device", encoder.device),
            ("Precision", encoder.precision),
            ("Batch size", encoder.batch_size),
            ("Key", encoder.key),
        ],
        "Clusters": [
            ("Clusters", clusters.k),
            ("Probes of an image", clusters.probes),
            ("Mean cosine to centroid", cosine(clusters.mean_cosine)),
            ("Smallest", clusters.sizes.min),
            ("Median", clusters.sizes.median),
            ("Largest", clusters.sizes.max),
            ("Empty", clusters.sizes.empty),
        ],
        "Deduplication": [
            ("Rule", dedup.rule),
            ("Who stays", dedup.keep),
            ("eps", f"{dedup.eps:g}{default}"),
            ("eps_max, of the search", f"{dedup.eps_max:g}"),
            ("Pairs stored", dedup.pairs),
            ("Crowded clusters", dedup.crowded_clusters or None),
        ],
        "Shards": [
            ("In", shards.in_),
            ("Failed", shards.failed),
            ("Out", shards.out),
            ("Samples short of the stats", shards.shortfall),
        ],
        "Run": [
            ("Run", summary.run),
            ("Started", summary.started),
            ("Took", duration(summary.seconds)),
            ("Samples a second", rate),
            ("Output", summary.output),
            ("Store", summary.store),
            ("made", summary.made),
        ],
    }
    return {
        title: [(k, number(v)) for k, v in rows if v not in (None, NOTHING)] for title, rows in facts.items()
    }


def _chart(h: Histogram) -> dict[str, Any] | None:
    """The histogram's shapes, in units of its view box; None without pairs."""
    total, top = sum(h.counts), max(h.counts, default=0)
    if not total:
        return None
    log = top > 50 * min(c for c in h.counts if c)
    low, high = min(h.edges[0], h.threshold), max(h.edges[-1], h.threshold)
    if log:  # from half a pair, so that a single pair has a bar
        decades = math.ceil(math.log10(top))
        heights = {10**d: f"{10**d:,}" for d in range(0, decades + 1, 1 + decades // 7)}
        span = math.log10(2 * max(top, *heights))
    else:
        step = max(1, round(_step(top, 5)))
        heights = {v: f"{v:,}" for v in range(0, top + step, step)}
        span = max(heights)
    left = LEFT + 8 * max(len(text) for text in heights.values())

    def x(value: float) -> float:
        return round(left + (value - low) / (high - low) * (WIDTH - RIGHT - left), 2)

    def y(count: int) -> float:
        part = (math.log10(2 * count) if log else count) / span if count else 0
        return round(BOTTOM - part * (BOTTOM - TOP), 2)

    grid = _step(high - low, 8)
    ticks = [i * grid for i in range(math.ceil(low / grid - 1e-6), int(high / grid + 1e-6) + 1)]
    bars, fuzz = [], 1e-9  # edges are computed, so compare them with room
    for a, b, count in zip(h.edges, h.edges[1:], h.counts, strict=False):
        inside = a + fuzz < h.threshold < b - fuzz
        for start, end in ((a, h.threshold), (h.threshold, b)) if inside else ((a, b),):
            bar = {"from": a, "to": b, "count": count, "above": start > h.threshold - fuzz}
            bars.append(bar | {"x": x(start), "y": y(count), "width": round(x(end) - x(start), 2)})
    # Pairs of the bin that the threshold cuts, if any, may be on either side.
    cut = sum(bar["count"] for bar in bars) - total
    most = sum(bar["count"] for bar in bars if bar["above"])
    return {
        "bars": [bar for bar in bars if bar["count"]],
        "bins": list(zip(h.edges, h.edges[1:], h.counts, strict=False)),
        "xs": [(x(t), f"{t:.{max(2, -math.floor(math.log10(grid)))}f}") for t in ticks],
        "ys": [(y(count), text) for count, text in heights.items()],
        "box": {"left": left, "right": WIDTH - RIGHT, "top": TOP, "bottom": BOTTOM},
        "size": (WIDTH, HEIGHT),
        "threshold": x(h.threshold),
        "log": log,
        "total": total,
        "low": h.edges[0],
        "high": h.edges[-1],
        "least": most - cut,
        "most": most,
    }


def _step(span: float, ticks: int) -> float:
    """The smallest of 1, 2, 5 x 10^n that cuts `span` into at most `ticks` parts."""
    unit = 10.0 ** math.floor(math.log10(span / ticks))
    return next(unit * m for m in (1, 2, 5, 10) if unit * m >= span / ticks * (1 - 1e-9))
