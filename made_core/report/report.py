"""The report of a run: one self-contained HTML file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO

from PIL import Image

from made_core import filters
from made_core.errors import BadImage
from made_core.ingest import decode
from made_core.output.summary import NO_SHARDS, Summary
from made_core.reasons import UNREADABLE
from made_core.report.charts import Histogram, chart, valley
from made_core.report.html import NOTHING, cosine, duration, fill, number
from made_core.types import RunState

MAX_PIXELS = 100_000_000  # of an image for a thumbnail; bounds memory
THUMBNAIL = 160  # pixels: the longer side of a thumbnail
DOUBTFUL = 0.25  # of eps, next to the threshold: there pairs are doubtful
PALETTE = 8  # colours for filters in style.css.j2, by position in filters.FILTERS


@dataclass(frozen=True)
class Example:
    """A sample with its thumbnail, in a group of duplicates."""

    uid: str
    shard: str  # the input shard's id
    key: str  # in the input shard
    similarity: float | None  # to the kept sample; None: it is the kept sample, or unknown
    caption: str
    jpeg: bytes | None  # a thumbnail; None: the image cannot be read


@dataclass(frozen=True)
class Group:
    """A kept sample and the samples that it represents."""

    kept: Example
    removed: tuple[Example, ...]  # the most similar
    size: int  # number of samples, including the kept one


@dataclass(frozen=True)
class Unreadable:
    """Unreadable samples with the same error."""

    error: str
    count: int
    examples: tuple[str, ...]  # "shard/key" of the first few


def thumbnail(data: bytes, side: int = THUMBNAIL) -> bytes | None:
    """A JPEG of the image as the encoder sees it, at most `side` x `side` pixels.

    None if `data` is not an image, is damaged, or has more than MAX_PIXELS pixels.
    """
    try:
        image = Image.fromarray(decode.decode(data, MAX_PIXELS))
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
    doubtful: Sequence[tuple[Example, Example]] = (),
) -> str:
    """The report as self-contained HTML that can be encoded as UTF-8.

    Args:
        summary: of the run.
        histogram: of all stored pairs.
        groups: in the order shown, the largest first.
        unreadable: by error.
        failed_shards: (shard, error).
        doubtful: the least certain removals, (kept, removed), the least similar first.
    """
    return fill(
        "report.html.j2",
        summary=summary,
        failures=summary.state is RunState.COMPLETED_WITH_FAILURES,
        outcomes=outcomes(summary),
        chart=chart(histogram),
        valley=valley(histogram),
        threshold=histogram.threshold,
        groups=groups,
        doubtful=doubtful,
        certain=1 - summary.dedup.eps * (1 - DOUBTFUL),
        unreadable=unreadable,
        failed_shards=failed_shards,
        facts=_facts(summary),
        stages=summary.seconds_by_stage,
        busy=sum(seconds or 0 for seconds in summary.seconds_by_stage.values()),
    )


@dataclass(frozen=True)
class Outcome:
    """A row of the table of outcomes."""

    colour: str  # name of a colour in style.css.j2
    label: str
    meaning: str
    count: int  # samples
    start: int  # samples in the rows above: where its part of the bar starts


def outcomes(summary: Summary) -> list[Outcome]:
    """The outcomes of the samples: kept first, then the reasons by count, then unreadable.

    A filter that was on has a row, whether it dropped a sample or not.
    """
    samples = summary.samples
    on = {f.reason.name: 0 for f in filters.FILTERS if f.field in summary.filters}
    dropped = sorted({**on, **samples.dropped}.items(), key=lambda item: -item[1])
    counts = [("kept", samples.kept), *dropped, (UNREADABLE.name, samples.unreadable)]
    outcomes, start = [], 0
    for name, count in counts:
        label, meaning = _words(name, summary)
        outcomes.append(Outcome(_colour(name), label, meaning, count, start))
        start += count
    return outcomes


def _words(outcome: str, summary: Summary) -> tuple[str, str]:
    """Label and meaning of `kept` or a reason; for a reason of another version, its name and nothing."""
    if outcome == "kept":
        return "Kept", "in the output" if summary.shards.written else "in the keep lists"
    reason = filters.by_name(outcome)
    if reason is None:
        return outcome.replace("_", " ").capitalize(), ""
    return reason.label, filters.meaning(reason, summary.filters)


def _colour(outcome: str) -> str:
    """The name of the outcome's colour in style.css.j2; filters use the palette in turn."""
    for position, f in enumerate(filters.FILTERS):
        if f.reason.name == outcome:
            return f"filter-{position % PALETTE}"
    return outcome if outcome == "kept" or filters.by_name(outcome) else "other"


def _facts(summary: Summary) -> dict[str, list[tuple[str, str]]]:
    """Title -> (label, text) of the known facts."""
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
            ("Probes per image", clusters.probes),
            ("Mean cosine to centroid", cosine(clusters.mean_cosine)),
            ("Smallest", clusters.sizes.min),
            ("Median", clusters.sizes.median),
            ("Largest", clusters.sizes.max),
            ("Empty", clusters.sizes.empty),
        ],
        "Deduplication": [
            ("Rule", dedup.rule),
            ("Keep rule", dedup.keep),
            ("eps", f"{dedup.eps:g}{default}"),
            ("eps_max of the search", f"{dedup.eps_max:g}"),
            ("Pairs stored", dedup.pairs),
            ("Crowded clusters", dedup.crowded_clusters or None),
        ],
        "Shards": [
            ("In", shards.in_),
            ("Failed", shards.failed),
            ("Out", shards.out if shards.written else f"none: {NO_SHARDS}"),
            ("Samples missing compared to the stats", shards.shortfall),
        ],
        "Run": [
            ("Run", summary.run),
            ("Started", summary.started),
            ("Duration", duration(summary.seconds)),
            ("Samples per second", rate),
            ("Output", summary.output),
            ("Store", summary.store),
            ("made", summary.made),
        ],
    }
    return {
        title: [(k, number(v)) for k, v in rows if v not in (None, NOTHING)] for title, rows in facts.items()
    }
