"""The steps of a run. Each names what its result depends on (the scope), and has the engine do it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from flows import generation
from flows.engine import Engine
from flows.generation import Generation, Paired
from made_core.cluster import cluster_rows, pair_tasks
from made_core.corpus import corpus as corpora
from made_core.corpus.corpus import Corpus
from made_core.dedup import pair_recall
from made_core.errors import Permanent, TooManyFailures
from made_core.io import files
from made_core.io.arrays import read_array
from made_core.ledger.records import Result
from made_core.output import publish
from made_core.output.plan import Plan
from made_core.recipe import digest
from made_core.retries import retrying
from made_core.types import FileRef, Shard, Stage, UnitState
from tasks.assign import assign as assign_task
from tasks.audit import QUERIES
from tasks.audit import audit as audit_task
from tasks.catalog import catalog as catalog_task
from tasks.decide import decide as decide_task
from tasks.embed import embed as embed_task
from tasks.fit import fit as fit_task
from tasks.pairs import pairs as pairs_task
from tasks.resolve import resolve as resolve_task
from tasks.write import write as write_task

CENTROIDS = "centroids"  # the key of fit's unit
PAIRS_COST = 4e9  # row products of a pairs unit, about: seconds on a core


@dataclass(frozen=True)
class Embedded:
    """The corpus, what it extends, and what it lost."""

    corpus: Corpus
    ref: FileRef
    earlier: Generation | None
    results: dict[str, Result]  # by fingerprint
    failed: dict[str, str]  # shard id -> error


@dataclass(frozen=True)
class Clustered:
    """The corpus in cluster order."""

    catalog: Result
    fit: Result
    scope: str
    batches: dict[str, cluster_rows.Batch]  # by the range of parts, those of earlier generations first
    results: list[Result]  # of this run's


@dataclass(frozen=True)
class Decided:
    """The decisions, global and by input shard."""

    scope: str
    resolved: Result
    by_shard: list[Result]


def embed(engine: Engine, shards: Sequence[Shard], earlier: Generation | None = None) -> Embedded:
    """Every shard's embeddings, and the corpus of those that could be read, behind the `earlier` one.

    Raises:
        TooManyFailures: more than the recipe's share of the shards failed, or all, or one where it
            says fail_fast.
    """
    recipe, encoding = engine.job.recipe, engine.job.encoding
    scope = digest([files.absolute(recipe.store_url), encoding.key, recipe.reading.model_dump()])
    by_key = {s.fingerprint: s for s in shards}
    results = engine.units(
        Stage.EMBED,
        scope,
        list(by_key),
        lambda keys: embed_task.submit(engine.job, scope, [by_key[k] for k in keys]),
        gpus=recipe.work.gpus_per_task,
        expect=_expected(by_key.values()),
        fail_fast=recipe.work.fail_fast,
    )
    failed = {
        s.id: results[s.fingerprint].error or "failed"
        for s in shards
        if results[s.fingerprint].state is not UnitState.DONE
    }
    if len(failed) == len(shards) or len(failed) > recipe.work.max_failed_share * len(shards):
        name, error = next(iter(failed.items()))
        raise TooManyFailures(f"{len(failed)} of {len(shards)}, such as {name}: {error}")
    corpus = corpora.build(
        [
            (s, result.samples, result.files[0], result.files[1])
            for s in shards
            if s.id not in failed and (result := results[s.fingerprint])
        ],
        earlier.corpus if earlier else None,
    )
    if not corpus.new:
        raise Permanent(f"{len(shards)} shards hold no sample")
    folder = files.join(recipe.store_url, "corpora")
    ref = retrying(recipe.work.attempts)(corpora.put, folder, corpus)
    engine.ledger.runs.put_corpus(engine.job.run, ref)
    return Embedded(corpus, ref, earlier, results, failed)


def cluster(engine: Engine, embedded: Embedded) -> Clustered:
    """Classes of equal images, centroids, and the rows in cluster order."""
    job, corpus, ref, earlier = engine.job, embedded.corpus, embedded.ref, embedded.earlier
    part, cut = job.recipe.clusters, job.recipe.work.shards_per_task
    before = earlier.catalog.files if earlier else ()
    base = digest([files.absolute(job.recipe.store_url), corpus.key, *(f.digest for f in before)])
    catalog = engine.one(Stage.CATALOG, base, "catalog",
                         lambda: catalog_task.submit(job, base, ref, before))  # fmt: skip
    if earlier:
        fit = earlier.fit
        engine.ledger.units.put(job.run, Stage.FIT, earlier.fit_scope, [CENTROIDS], job.recipe.work.attempts)
        scope = digest([earlier.scope, base, cut])
    else:
        fit_scope = digest([base, part.model_dump(exclude={"probes"})])
        fit = engine.one(Stage.FIT, fit_scope, CENTROIDS,
                         lambda: fit_task.submit(job, fit_scope, ref, catalog.files))  # fmt: skip
        scope = digest([fit_scope, fit.files[0].digest, part.probes, cut])
    results = engine.units(
        Stage.ASSIGN,
        scope,
        _batches(corpus, cut),
        lambda keys: assign_task.submit(job, scope, ref, catalog.files, fit.files[0], keys),
        expect=corpus.samples - corpus.begin,
    )
    done = engine.all_done(Stage.ASSIGN, results)
    mine = {r.key: cluster_rows.Batch(*r.files) for r in done}
    return Clustered(catalog, fit, scope, {**earlier.batches, **mine} if earlier else mine, done)


def pair(engine: Engine, embedded: Embedded, clustered: Clustered) -> Paired:
    """The near pairs of every cluster: facts, whatever eps, filters and keep rule are."""
    job, begin = engine.job, embedded.corpus.begin
    batches = tuple(clustered.batches.values())
    scope = digest([clustered.scope, job.bound, job.recipe.work.pairs_per_sample])
    sizes = cluster_rows.sizes(batches)
    cost = float((sizes.astype(float) ** 2).sum())
    work = pair_tasks.pack(sizes, max(1, round(cost / PAIRS_COST)))
    results = engine.units(
        Stage.PAIRS, scope, [span.key for span in work],
        lambda some: pairs_task.submit(job, scope, batches, begin, some),
    )  # fmt: skip
    done = engine.all_done(Stage.PAIRS, results)
    return Paired.of(scope, done, sizes * job.recipe.work.pairs_per_sample)


def audit(engine: Engine, embedded: Embedded, clustered: Clustered) -> pair_recall.Recall | None:
    """The share of the near pairs at eps that was compared; None: the recipe does not ask."""
    job, ref, catalog = engine.job, embedded.ref, clustered.catalog.files
    part, k = job.recipe.audit, clustered.fit.counts["k"]
    if not part.queries:
        return None
    if job.recipe.clusters.probes >= k:
        return pair_recall.WHOLE
    scope = digest([clustered.scope, job.encoding.eps, part.model_dump()])
    batches = clustered.batches  # a batch counted is a batch assigned
    drawn = engine.one(
        Stage.AUDIT, scope, QUERIES,
        lambda: audit_task.submit(job, scope, ref, catalog, batches, (), [QUERIES]),
    )  # fmt: skip
    results = engine.units(
        Stage.AUDIT,
        scope,
        [QUERIES, *batches],
        lambda keys: audit_task.submit(job, scope, ref, catalog, batches, drawn.files, keys),
    )
    _, *counted = engine.all_done(Stage.AUDIT, results)
    counts = np.sum([read_array(r.files[0]) for r in counted], axis=0)
    return pair_recall.estimate(counts, drawn.counts["images"])


def decide(engine: Engine, embedded: Embedded, clustered: Clustered, paired: Paired) -> Decided:
    """Who stays, globally; then a row for every sample, by input shard."""
    job, corpus, earlier = engine.job, embedded.corpus, embedded.earlier
    recipe, ref, catalog = job.recipe, embedded.ref, clustered.catalog.files
    sources = generation.sources(
        clustered.catalog, clustered.batches, (*(earlier.paired if earlier else ()), paired), earlier
    )
    parts = [recipe.dedup.model_dump(exclude={"eps", "eps_max"}), recipe.filters.model_dump()]
    before = [f.digest for f in sources.earlier]
    resolve_scope = digest([paired.scope, job.encoding.eps, *parts, *before])
    resolved = engine.one(
        Stage.RESOLVE, resolve_scope, "decisions",
        lambda: resolve_task.submit(job, resolve_scope, ref, sources),
    )  # fmt: skip
    cut = recipe.work.shards_per_task
    urls = [part.shard.url for part in corpus.new]  # they stand in what is written
    scope = digest([resolve_scope, recipe.output, recipe.writing.model_dump(), cut, urls])
    finished = publish.plan_of(recipe.output) == scope
    by_batch = engine.units(
        Stage.DECIDE,
        scope,
        _batches(corpus, cut),
        lambda keys: decide_task.submit(job, scope, ref, catalog, resolved.files, keys),
        expect=corpus.samples - corpus.begin,
        stands=lambda r: publish.stands(recipe.output, r.files, finished),
        lost=lambda: publish.unmark(recipe.output),
    )
    by_shard = engine.all_done(Stage.DECIDE, by_batch)
    broken = sum(r.counts["broken"] for r in by_shard)
    if broken and recipe.dedup.rule == "cover":
        raise Permanent(f"{broken} removed samples have no kept one within eps: a defect of made")
    return Decided(scope, resolved, by_shard)


def write(engine: Engine, embedded: Embedded, decided: Decided) -> list[Result]:
    """The output shards, numbered from 0 without gaps."""
    job, scope = engine.job, decided.scope
    plan = Plan(decided.resolved.counts["kept"], job.recipe.writing.samples_per_shard)
    finished = publish.plan_of(job.recipe.output) == scope
    results = engine.units(
        Stage.WRITE,
        scope,
        [plan.name(n) for n in range(plan.shards)],
        lambda keys: write_task.submit(job, scope, embedded.ref, decided.resolved.files[3], keys),
        expect=plan.kept,
        stands=lambda r: publish.stands(job.recipe.output, r.files, finished),
        lost=lambda: publish.unmark(job.recipe.output),
    )
    return engine.all_done(Stage.WRITE, results)


def _expected(shards: Iterable[Shard]) -> int | None:
    """Samples by the shards' stats; None where one has none."""
    counts = [s.expected for s in shards]
    return None if None in counts else sum(c for c in counts if c is not None)


def _batches(corpus: Corpus, cut: int) -> list[str]:
    """Ranges of the parts that this run brings."""
    stop = len(corpus.parts)
    return [f"{a}-{min(stop, a + cut)}" for a in range(corpus.known, stop, cut)]
