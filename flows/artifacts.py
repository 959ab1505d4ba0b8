"""What the page of a flow run shows in Prefect: its progress by stage, then its result and report.

Each is one artifact of the flow run. The progress is updated in place.
"""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from uuid import UUID

import httpx
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import ArtifactCreate, ArtifactUpdate
from prefect.exceptions import PrefectException

from flows.flow_run import FlowRun
from flows.periodic import every
from made_core.errors import MadeError
from made_core.ledger.ledger import Ledger
from made_core.ledger.records import StageStatus
from made_core.output.summary import Summary
from made_core.report import report
from made_core.report.html import ILLEGAL, duration, share, short, uri
from made_core.report.report import Example, Group
from made_core.types import UnitState

logger = logging.getLogger("prefect.made")
SECONDS = 10.0  # between two updates of the progress
BAR = 20  # characters
MARKDOWN = re.compile(r"([\\`*_{}\[\]<>()#+!|~&-])")


@contextmanager
def shown_progress(flow_run: FlowRun, ledger: Ledger, run: str, output: str) -> Iterator[None]:
    """Updates the artifact with the progress of a run every few seconds, and at the end."""
    artifact = Progress(flow_run, ledger, run, output)
    try:
        with every(SECONDS, artifact.update):
            yield
    finally:
        with suppress(MadeError, httpx.HTTPError, PrefectException):
            artifact.update(last=True)


class Progress:
    """The artifact with the progress of a run."""

    def __init__(self, flow_run: FlowRun, ledger: Ledger, run: str, output: str) -> None:
        self._flow_run, self._ledger, self._run, self._output = flow_run, ledger, run, output
        self._id: UUID | None = None
        self._text = ""
        self._not_before = 0.0  # a run of 100,000 units is asked for less often

    def update(self, last: bool = False) -> None:
        """Writes the artifact if something has changed. Raises what the ledger and Prefect raise."""
        asked = time.monotonic()
        if asked < self._not_before and not last:
            return
        text = progress(self._run, self._output, self._ledger.progress.of(self._run))
        self._not_before = time.monotonic() + 9 * (time.monotonic() - asked)
        if text == self._text:
            return
        if self._id is None:
            key = f"made-progress-{self._run}"
            self._id = _create(self._flow_run, key, "markdown", text, f"Run {self._run}: progress by stage")
        else:
            _update(self._id, text)
        self._text = text


def progress(run: str, output: str, stages: Sequence[StageStatus]) -> str:
    """A table of the stages that have started, as Markdown."""
    lines = [f"Run `{run}`, output `{output}`", ""]
    if not stages:
        return "\n".join([*lines, "Ray starts, and the encoder is loaded."])
    lines += ["| stage | | units | failed | samples | samples/s | ETA |", "|:--|:--|--:|--:|--:|--:|--:|"]
    for status in stages:
        units, total = status.tally.units, max(1, status.tally.total)
        ended = units[UnitState.DONE] + units[UnitState.FAILED]
        full = BAR * ended // total
        cells = (
            status.stage,
            "█" * full + "░" * (BAR - full),
            f"{ended:,} of {status.tally.total:,}",
            f"{units[UnitState.FAILED]:,}",
            f"{status.tally.samples:,}",
            "" if status.rate is None else f"{status.rate:,.0f}",
            "" if status.eta is None else str(timedelta(seconds=round(status.eta))),
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def put_result(
    flow_run: FlowRun,
    summary: Summary,
    failed: Mapping[str, str],
    unread: Mapping[str, str],
    groups: Sequence[Group],
) -> None:
    """The artifacts of a run that has ended: counts by reason, shards that failed, the report.

    Args:
        failed: shard -> error.
        unread: path or URL of a tar that was not read -> why.
        groups: of duplicates, with pictures.
    """
    rows = [
        {"outcome": row.label, "samples": row.count, "share": share(row.count, summary.samples.in_)}
        for row in report.outcomes(summary)
    ]
    run = summary.run
    _create(flow_run, f"made-samples-{run}", "table", json.dumps(rows), f"Run {run}: samples by reason")
    shards = [{"shard": name, "error": error} for name, error in sorted(failed.items())]
    shards += [{"shard": url, "error": f"not read: {why}"} for url, why in sorted(unread.items())]
    if shards:
        _create(flow_run, f"made-failed-{run}", "table", json.dumps(shards), f"Run {run}: shards that failed")
    text = report_text(summary, groups)
    _create(flow_run, f"made-report-{run}", "markdown", text, f"Run {run}: report")


def report_text(summary: Summary, groups: Sequence[Group]) -> str:
    """The main figures of report.html, and its largest groups with their pictures, as Markdown."""
    samples, promise = summary.samples, summary.promise
    lines = [
        f"# {samples.kept:,} of {samples.in_:,} samples kept",
        "",
        "| | samples | share | |",
        "|:--|--:|--:|:--|",
    ]
    lines += [
        f"| {row.label} | {row.count:,} | {share(row.count, samples.in_)} | {row.meaning} |"
        for row in report.outcomes(summary)
    ]
    lines += [
        "",
        f"- Shards: {summary.shards.sentence}",
        f"- Removed duplicates checked: {promise.checked:,}; not represented: {promise.broken:,}",
        f"- Encoder: {summary.encoder.model}; eps {summary.dedup.eps:g}; {duration(summary.seconds)}",
    ]
    if summary.recall:
        lines.append(f"- {summary.recall.sentence}")
    lines += [f"- Note: {plain(warning)}" for warning in summary.warnings]
    lines.append(f"- Output: `{summary.output}`; the whole report: `{summary.output}/report.html`")
    if groups:
        lines += ["", "## Largest groups of duplicates", ""]
    for group in groups:
        lines += [f"**{group.size:,} samples**, kept: {plain(short(group.kept.caption))}", ""]
        pictures = [_picture(group.kept, "kept"), *(_picture(e, _similarity(e)) for e in group.removed)]
        heads, bodies = zip(*pictures, strict=True)
        lines += [f"| {' | '.join(heads)} |", f"|{':-:|' * len(heads)}", f"| {' | '.join(bodies)} |", ""]
    return ILLEGAL.sub("\N{REPLACEMENT CHARACTER}", "\n".join(lines))


def _picture(example: Example, head: str) -> tuple[str, str]:
    if example.jpeg is None:
        return head, "no picture"
    return head, f"![{plain(short(example.caption))}]({uri(example.jpeg)})"


def _similarity(example: Example) -> str:
    return "removed" if example.similarity is None else f"removed, {example.similarity:.3f}"


def plain(text: str) -> str:
    """Text of others as Markdown that shows it as it is, on one line."""
    return MARKDOWN.sub(r"\\\1", " ".join(text.split()))


def _create(flow_run: FlowRun, key: str, kind: str, data: str, description: str) -> UUID | None:
    artifact = ArtifactCreate(key=key, type=kind, data=data, description=description, flow_run_id=flow_run.id)
    try:
        with get_client(sync_client=True) as client:
            return client.create_artifact(artifact).id
    except (httpx.HTTPError, PrefectException, OSError):
        logger.debug("artifact %s was not written", key, exc_info=True)
        return None


def _update(artifact: UUID, data: str) -> None:
    with get_client(sync_client=True) as client:
        client.update_artifact(artifact, ArtifactUpdate(data=data))
