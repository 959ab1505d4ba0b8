"""The account of a run: per input shard, and in all."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from typing import Any

import numpy as np

from flows.engine import Engine
from flows.generation import Paired
from flows.steps import Clustered, Decided, Embedded
from made_core import __version__
from made_core.cluster import cluster_rows, kmeans
from made_core.cluster.kmeans import Drift
from made_core.dedup.pair_recall import Recall
from made_core.filters import REASONS
from made_core.ingest.discovery import Discovery
from made_core.ledger.records import Result
from made_core.output.accounts import total as total_of
from made_core.reasons import UNREADABLE
from made_core.types import Account, RunState, Shard

NAMED = 3  # failed shards in the warnings; status and report name all


def accounts(shards: Sequence[Shard], embedded: Embedded, decided: Decided) -> list[dict[str, Any]]:
    """A row per input shard: what it promised, what it held, what became of it."""
    by_shard: dict[str, dict[str, Any]] = {}
    for result in decided.by_shard:
        by_shard.update(result.counts["accounts"])
    rows = []
    for shard in shards:
        found = Account(**by_shard[shard.id]) if shard.id in by_shard else Account()
        error = embedded.failed.get(shard.id)
        short = 0 if error or shard.expected is None else shard.expected - found.samples
        rows.append(
            {
                "shard": shard.id,
                "url": shard.url,
                "state": "failed" if error else "done",
                "error": error,
                "expected": shard.expected,
                "samples": found.samples,
                "kept": found.kept,
                "unreadable": found.unreadable,
                **{r.name: found.dropped.get(r.name, 0) for r in REASONS if r is not UNREADABLE},
                "shortfall": max(0, short),
            }
        )
    return rows


def summarise(
    engine: Engine,
    started: float,
    found: Discovery,
    rows: Sequence[dict[str, Any]],
    embedded: Embedded,
    clustered: Clustered,
    paired: Paired,
    decided: Decided,
    written: Sequence[Result],
    audited: dict[str, Any] | None,
) -> dict[str, Any]:
    """What summary.json holds; docs/formats.md names each field."""
    job, recipe, encoding = engine.job, engine.job.recipe, engine.job.encoding
    total = total_of([Account(**a) for r in decided.by_shard for a in r.counts["accounts"].values()])
    sizes = cluster_rows.sizes(tuple(clustered.batches.values()))
    fit = clustered.fit.counts
    return {
        "run": job.run,
        "made": __version__,
        "plan": decided.scope,
        "state": _state(embedded).value,
        "started": datetime.fromtimestamp(started, timezone.utc).isoformat(timespec="seconds"),
        "seconds": round(time.time() - started, 2),
        "seconds_by_stage": _seconds(engine),
        "samples": {
            "in": total.samples,
            "kept": total.kept,
            "dropped": total.dropped,
            "unreadable": total.unreadable,
        },
        "extends": _extends(embedded, clustered, decided),
        "placeholders": decided.resolved.counts["placeholders"],
        "shards": {
            "in": len(found.shards),
            "failed": len(embedded.failed),
            "out": len(written),
            "shortfall": sum(r["shortfall"] for r in rows),
        },
        "encoder": {
            "model": encoding.model,
            "dim": encoding.dim,
            "device": encoding.device,
            "precision": encoding.precision,
            "batch_size": encoding.batch_size,
            "key": encoding.key,
        },
        "clusters": {
            "k": fit["k"],
            "probes": min(recipe.clusters.probes, fit["k"]),
            "trained_on": fit["trained_on"],
            "mean_cosine": round(fit["mean_cosine"], 6),
            "sizes": {
                "min": int(sizes.min()),
                "median": float(np.median(sizes)),
                "max": int(sizes.max()),
                "empty": int((sizes == 0).sum()),
            },
        },
        "dedup": {
            "rule": recipe.dedup.rule,
            "keep": recipe.dedup.keep,
            "eps": encoding.eps,
            "eps_is_default": encoding.eps_is_default,
            "eps_max": round(1 - job.bound, 12),
            "pairs": sum(r.counts["pairs"] for r in paired.results),
        },
        "recall": audited,
        "promise": {
            "checked": sum(r.counts["checked"] for r in decided.by_shard),
            "broken": sum(r.counts["broken"] for r in decided.by_shard),
        },
        "warnings": _warnings(job.run, found, rows, embedded, clustered),
        "output": recipe.output,
        "store": recipe.store_url,
    }


def recall(engine: Engine, clustered: Clustered, found: Recall | None) -> dict[str, Any] | None:
    """What the audit measured, and at how many probes; None: it is off."""
    if found is None:
        return None
    shares = asdict(found)
    for name in ("estimate", "low", "high"):
        shares[name] = None if shares[name] is None else round(shares[name], 6)
    return shares | {"probes": min(engine.job.recipe.clusters.probes, clustered.fit.counts["k"])}


def equal(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two summaries tell the same of an output, whenever and how fast it was made."""
    volatile = ("started", "seconds", "seconds_by_stage", "keep_npy")
    left, right = ({k: v for k, v in s.items() if k not in volatile} for s in (one, other))
    return left == right


def histogram(paired: Paired) -> list[int]:
    """Counts of all stored pairs by similarity."""
    total = np.sum([r.counts["histogram"] for r in paired.results], axis=0)
    return [int(n) for n in total]


def _state(embedded: Embedded) -> RunState:
    return RunState.COMPLETED_WITH_FAILURES if embedded.failed else RunState.COMPLETED


def _seconds(engine: Engine) -> dict[str, float]:
    """Wall time from a stage's first start to its last finish, of the work as it was done."""
    return {
        s.stage.value: round((s.finished_at - s.started_at).total_seconds(), 2)
        for s in engine.ledger.stages.of(engine.job.run)
        if s.started_at and s.finished_at
    }


def _extends(embedded: Embedded, clustered: Clustered, decided: Decided) -> dict[str, Any] | None:
    """What the run added to; None: it began a corpus."""
    earlier = embedded.earlier
    if earlier is None:
        return None
    return {
        "run": earlier.run.id,
        "output": earlier.run.output,
        "generation": earlier.number + 1,
        "samples": embedded.corpus.begin,
        "kept": decided.resolved.counts["kept_before"],
        "stand_for": decided.resolved.counts["stood_for_before"],
        "mark": earlier.mark,
        "drift": asdict(_drift(clustered)),
    }


def _drift(clustered: Clustered) -> Drift:
    fit, results = clustered.fit.counts, clustered.results
    images = sum(r.counts["images"] for r in results)
    distance = sum(r.counts["distance"] for r in results)
    return kmeans.drift(
        1 - fit["mean_cosine"], distance / max(1, images), fit["images"],
        clustered.catalog.counts["images"],
    )  # fmt: skip


def _warnings(
    run: str, found: Discovery, rows: Sequence[dict[str, Any]], embedded: Embedded, clustered: Clustered
) -> list[str]:
    texts = []
    if embedded.earlier and (drift := _drift(clustered)).train_anew:
        texts.append(
            f"the centroids fit no longer: new images are {drift.distance:.2f} times as far from them, and "
            f"images are {drift.growth:.1f} times as many, as when they were trained; a run over all "
            "sources, without extends, trains them anew"
        )
    if found.refused:
        texts.append(
            f"{len(found.refused)} tars have no _stats.json and were not admitted, such as {found.refused[0]}"
        )
    for row in [r for r in rows if r["error"]][:NAMED]:
        texts.append(f"shard {row['shard']} failed: {row['error']}")
    if embedded.failed:
        texts.append(f"after the cause is mended: made retry {run} ({len(embedded.failed)} failed)")
    if short := [r for r in rows if r["shortfall"]]:
        missing = sum(r["shortfall"] for r in short)
        texts.append(
            f"{len(short)} shards hold {missing} samples fewer than their stats say, "
            f"such as {short[0]['shard']}"
        )
    unclear = sum(r.counts.get("warnings", 0) for r in embedded.results.values())
    if unclear:
        texts.append(f"{unclear} samples have json or txt that could not be read as such")
    stray = sum(r.counts.get("stray", 0) for r in embedded.results.values())
    if stray:
        texts.append(f"{stray} members of the tars belong to no sample")
    return texts
