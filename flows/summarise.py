"""The summary of a run and the accounts of its input shards."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime, timezone

import numpy as np

from flows.engine import Engine
from flows.generation import OwnPairs
from flows.outcome import unread
from flows.request import Request
from flows.results import Clustered, Decided, Embedded
from flows.steps import probes_of, used_probes
from made_core import __version__
from made_core.cluster import cluster_rows
from made_core.cluster.drift import moved
from made_core.dedup.pair_recall import Recall
from made_core.output.accounts import ShardAccount, total
from made_core.output.summary import (
    ClusterFacts,
    ClusterSizes,
    DedupFacts,
    Drift,
    EncoderFacts,
    Extends,
    Placeholders,
    Promise,
    RecallFacts,
    SampleCounts,
    ShardCounts,
    Summary,
)
from made_core.stages import WriteOutput
from made_core.types import Account, RunState, Shard

NAMED = 3  # failed shards in the warnings; status and report list all
NO_KEEP_NPY = "not written: some uids are not 128-bit hex numbers"


def accounts(shards: Sequence[Shard], embedded: Embedded, decided: Decided) -> tuple[ShardAccount, ...]:
    """The account of each input shard."""
    known = {shard: account for output in decided.tables for shard, account in output.accounts.items()}
    return tuple(
        ShardAccount(s.id, s.url, embedded.failed.get(s.id), s.expected, known.get(s.id, Account()))
        for s in shards
    )


def summarise(
    engine: Engine,
    started: float,
    request: Request,
    rows: Sequence[ShardAccount],
    embedded: Embedded,
    clustered: Clustered,
    pairs: OwnPairs,
    decided: Decided,
    written: Sequence[WriteOutput],
    audited: Recall | None,
) -> Summary:
    """The summary of a run whose output is about to be published."""
    context, recipe, encoding = engine.context, engine.context.recipe, engine.context.encoding
    account, resolved, fit = total([row.account for row in rows]), decided.resolved, clustered.fit
    return Summary(
        run=context.run,
        made=__version__,
        decisions_digest=decided.digest,
        state=RunState.COMPLETED_WITH_FAILURES if embedded.failed else RunState.COMPLETED,
        started=datetime.fromtimestamp(started, timezone.utc).isoformat(timespec="seconds"),
        seconds=round(time.time() - started, 2),
        seconds_by_stage=_seconds(engine, started),
        samples=SampleCounts(
            in_=account.samples, kept=account.kept, dropped=account.dropped, unreadable=account.unreadable
        ),
        extends=_extends(embedded, clustered, resolved.kept_earlier, resolved.represented_earlier),
        placeholders=Placeholders(images=resolved.placeholder_images, samples=resolved.placeholder_samples),
        shards=ShardCounts(
            in_=len(request.found.shards),
            failed=len(embedded.failed),
            unread=len(unread(request.found.refused, request.unfinished)),
            unfinished_folders=len(request.unfinished),
            out=len(written),
            written=recipe.writing.shards,
            shortfall=sum(row.shortfall for row in rows),
        ),
        encoder=EncoderFacts(
            model=encoding.model,
            dim=encoding.dim,
            device=encoding.device,
            precision=encoding.precision,
            batch_size=encoding.batch_size,
            key=encoding.key,
            caption_key=encoding.caption_key,
        ),
        clusters=_clusters(engine, clustered),
        dedup=DedupFacts(
            rule=recipe.dedup.rule,
            keep=recipe.dedup.keep_rule,
            eps=encoding.eps,
            eps_is_default=encoding.eps_is_default,
            eps_max=round(1 - context.bound, 12),
            pairs=pairs.found.stored,
            crowded_clusters=len(pairs.found.crowded),
            crowded_rows=_rows_of(clustered, pairs.found.crowded),
        ),
        filters=recipe.filters.model_dump(mode="json", exclude_none=True),
        recall=None if audited is None else _recall(audited, used_probes(recipe, fit)),
        promise=Promise(
            checked=sum(output.checked for output in decided.tables),
            recomputed=sum(output.recomputed for output in decided.tables),
            broken=sum(output.broken for output in decided.tables),
        ),
        keep_npy=None if resolved.hex_uids else NO_KEEP_NPY,
        warnings=warnings(context.run, request, rows, embedded, clustered),
        output=recipe.output,
        store=recipe.store_url,
    )


def _recall(found: Recall, probes: int) -> RecallFacts:
    def rounded(share: float | None) -> float | None:
        return None if share is None else round(share, 6)

    return RecallFacts(
        queries=found.queries,
        with_duplicates=found.with_duplicates,
        pairs=found.pairs,
        found=found.found,
        estimate=rounded(found.estimate),
        low=rounded(found.low),
        high=rounded(found.high),
        probes=probes,
    )


def _clusters(engine: Engine, clustered: Clustered) -> ClusterFacts:
    sizes, fit = cluster_rows.sizes(tuple(clustered.batches.values())), clustered.fit
    return ClusterFacts(
        k=fit.k,
        probes=probes_of(engine.context.recipe.clusters, fit),
        probes_recall=None if fit.probes_recall is None else round(fit.probes_recall, 6),
        trained_on=fit.samples,
        mean_cosine=round(fit.mean_cosine, 6),
        sizes=ClusterSizes(
            min=int(sizes.min()),
            median=float(np.median(sizes)),
            max=int(sizes.max()),
            empty=int((sizes == 0).sum()),
        ),
    )


def _rows_of(clustered: Clustered, clusters: Sequence[int]) -> int:
    return int(cluster_rows.sizes(tuple(clustered.batches.values()))[list(clusters)].sum())


def _seconds(engine: Engine, started: float) -> dict[str, float | None]:
    """Wall time of the units of each stage that were computed since `started`; None: there are none."""
    progress, run = engine.ledger.progress, engine.context.run
    # The ledger counts back from its own clock, which may differ from this one.
    computed = progress.computed(run, time.time() - started)
    stages = [s.stage for s in progress.of(run) if s.planned]
    return {stage: round(computed[stage], 2) if stage in computed else None for stage in stages}


def _extends(embedded: Embedded, clustered: Clustered, kept: int, represents: int) -> Extends | None:
    """The generation that the run extends; None: it starts a corpus."""
    earlier = embedded.earlier
    if earlier is None:
        return None
    return Extends(
        run=earlier.run.id,
        output=earlier.run.output,
        generation=earlier.number + 1,
        samples=embedded.corpus.begin,
        kept=kept,
        represents=represents,
        mark=earlier.mark,
        drift=_drift(clustered),
    )


def _drift(clustered: Clustered) -> Drift:
    fit = clustered.fit
    images = sum(output.images for output in clustered.own)
    distance = sum(output.distance for output in clustered.own)
    found = moved(1 - fit.mean_cosine, distance / max(1, images), fit.images, clustered.identities.images)
    return Drift(**asdict(found))


def warnings(
    run: str, request: Request, rows: Sequence[ShardAccount], embedded: Embedded, clustered: Clustered
) -> list[str]:
    """What the readers of the summary should know: a sentence each."""
    texts = []
    if embedded.earlier and (drift := _drift(clustered)).train_anew:
        texts.append(
            f"the centroids no longer fit: new images are {drift.distance:.2f} times as far from them as in "
            f"training, and there are {drift.growth:.1f} times as many images; to train new centroids, run "
            "over all sources without extends"
        )
    texts += [str(folder) for folder in request.unfinished]
    if refused := request.found.refused:
        texts.append(
            f"skipped, without a valid _stats.json: {counted(len(refused), 'tar')}, such as {refused[0]}"
        )
    for row in [r for r in rows if r.error][:NAMED]:
        texts.append(f"shard {row.shard} failed: {row.error}")
    if embedded.failed:
        failed = counted(len(embedded.failed), "shard")
        texts.append(f"{failed} failed; once the cause is fixed: made retry {run}")
    if short := [r for r in rows if r.shortfall]:
        missing, lacking = counted(sum(r.shortfall for r in short), "sample"), counted(len(short), "shard")
        texts.append(f"{missing} fewer than the stats of {lacking} say, such as {short[0].shard}")
    outputs = [r.output for r in embedded.results.values() if r.output is not None]
    if unclear := sum(output.warnings for output in outputs):
        texts.append(f"{counted(unclear, 'sample')} with a json or txt that cannot be read")
    if stray := sum(output.stray for output in outputs):
        texts.append(f"{counted(stray, 'tar member')} of no sample")
    return texts


def counted(number: int, noun: str) -> str:
    """`1 shard`, `2,000 shards`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
