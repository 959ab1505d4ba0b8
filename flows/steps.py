"""The steps of a run. Each computes the scope, what its result depends on, and runs its units."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import numpy as np

from flows.engine import Engine
from flows.generation import Generation, OwnPairs, resolve_files
from flows.placement import of_embed
from flows.results import Clustered, Decided, Embedded
from made_core.cluster import cluster_rows, pair_tasks
from made_core.corpus import clip_scores
from made_core.corpus import corpus as corpora
from made_core.corpus.corpus import Corpus, Part
from made_core.dedup import pair_recall
from made_core.errors import Permanent, TooManyFailures
from made_core.io import files
from made_core.io.arrays import read_array
from made_core.output import publish
from made_core.output.plan import Plan
from made_core.output.summary import NO_SHARDS
from made_core.recipe import Clusters, Recipe
from made_core.retries import retrying
from made_core.stages import (
    ASSIGN,
    AUDIT,
    CAPTIONS,
    CORPUS_KEY,
    DRAW,
    EMBED,
    FIT,
    IDENTIFY,
    PAIRS,
    RESOLVE,
    TABULATE,
    WRITE,
    FitOutput,
    UnitOutput,
    WriteOutput,
)
from made_core.types import FileRef, Shard
from tasks.assign import assign as assign_task
from tasks.audit import audit as audit_task
from tasks.captions import captions as captions_task
from tasks.draw import draw as draw_task
from tasks.embed import embed as embed_task
from tasks.fit import fit as fit_task
from tasks.identify import identify as identify_task
from tasks.pairs import pairs as pairs_task
from tasks.resolve import resolve as resolve_task
from tasks.tabulate import tabulate as tabulate_task
from tasks.write import write as write_task


def embed(engine: Engine, shards: Sequence[Shard], earlier: Generation | None = None) -> Embedded:
    """Embeds the shards and builds the corpus: the parts of `earlier`, then the embedded shards.

    Raises:
        TooManyFailures: more than work.max_failed_share of the shards failed, all failed, or one failed
            and work.fail_fast is set.
    """
    recipe, encoding = engine.context.recipe, engine.context.encoding
    scope = EMBED.scope(files.absolute(recipe.store_url), encoding.key, recipe.reading.model_dump())
    by_key = {s.fingerprint: s for s in shards}
    results = engine.units(
        EMBED,
        scope,
        list(by_key),
        lambda keys: embed_task.submit(engine.context, scope, [by_key[k] for k in keys]),
        resources=of_embed(recipe.work),
        expect=_expected(by_key.values()),
        fail_fast=recipe.work.fail_fast,
    )
    outputs = {key: r.output for key, r in results.items() if r.output is not None}
    failed = {s.id: results[s.fingerprint].error or "failed" for s in shards if s.fingerprint not in outputs}
    if len(failed) == len(shards) or len(failed) > recipe.work.max_failed_share * len(shards):
        name, error = next(iter(failed.items()))
        raise TooManyFailures(f"{len(failed)} of {len(shards)}, such as {name}: {error}")
    corpus = corpora.build(
        (
            Part(s, 0, output.samples, output.rows, output.metadata)
            for s in shards
            if (output := outputs.get(s.fingerprint))
        ),
        earlier.corpus if earlier else None,
    )
    if not corpus.new:
        raise Permanent(f"the {len(shards)} shards contain no samples")
    return Embedded(corpus, put_corpus(engine, corpus), earlier, results, failed)


def captions(engine: Engine, embedded: Embedded) -> Embedded:
    """The corpus with the CLIP score of every sample, if the run embeds captions.

    Images that are embedded already are not read: a shard's captions stand in its metadata. The parts of an
    earlier corpus are scored too, so that all scores are of one text tower.
    """
    context, corpus = engine.context, embedded.corpus
    key = context.encoding.caption_key
    if key is None:
        without = corpus.without_table(clip_scores.TABLE)
        return (
            embedded
            if without == corpus
            else replace(embedded, corpus=without, ref=put_corpus(engine, without))
        )
    by_key = {p.shard.fingerprint: p for p in corpus.parts}
    reading = context.recipe.reading.model_dump()  # what is unreadable has no score
    scope = CAPTIONS.scope(files.absolute(context.recipe.store_url), context.encoding.key, reading, key)
    outputs = engine.every(
        CAPTIONS,
        scope,
        list(by_key),
        lambda keys: captions_task.submit(context, scope, [by_key[k] for k in keys]),
        resources=of_embed(context.recipe.work),
        expect=sum(part.samples for part in by_key.values()),
    )
    scored = corpus.with_table(clip_scores.TABLE, {key: output.table for key, output in outputs.items()})
    return replace(embedded, corpus=scored, ref=put_corpus(engine, scored))


def cluster(engine: Engine, embedded: Embedded) -> Clustered:
    """Computes identities, centroids and the cluster rows."""
    context, corpus, ref, earlier = engine.context, embedded.corpus, embedded.ref, embedded.earlier
    section, work = context.recipe.clusters, context.recipe.work
    known = earlier.identities if earlier else None
    digests = [f.digest for f in known.refs] if known else []
    identify_scope = IDENTIFY.scope(files.absolute(context.recipe.store_url), corpus.key, digests)
    identities = engine.one(IDENTIFY, identify_scope, CORPUS_KEY,
                            lambda: identify_task.submit(context, identify_scope, ref, known))  # fmt: skip
    if earlier:
        fit, before = earlier.fit, earlier.scope
        engine.ledger.units.put(context.run, FIT, earlier.fit_scope, [CORPUS_KEY], work.attempts)
    else:
        measured = [context.probes_eps] if section.probes == "auto" else []
        fit_scope = before = FIT.scope(identify_scope, section.model_dump(exclude={"probes"}), *measured)
        fit = engine.one(FIT, fit_scope, CORPUS_KEY,
                         lambda: fit_task.submit(context, fit_scope, ref, identities),
                         of_embed(work))  # fmt: skip
    probes = probes_of(section, fit)
    scope = ASSIGN.scope(before, identify_scope, fit.centroids.digest, probes)
    own = engine.every(
        ASSIGN,
        scope,
        corpus.batches(work.shards_per_task),
        lambda keys: assign_task.submit(context, scope, ref, identities, fit, probes, keys),
        expect=corpus.samples - corpus.begin,
    )
    batches = {**earlier.batches, **own} if earlier else own
    return Clustered(identities, fit, scope, batches, tuple(own.values()))


def pair(engine: Engine, embedded: Embedded, clustered: Clustered) -> OwnPairs:
    """Finds the near pairs of every cluster. They do not depend on eps, filters or the keep rule."""
    context, begin = engine.context, embedded.corpus.begin
    batches = tuple(clustered.batches.values())
    scope = PAIRS.scope(clustered.scope, context.bound)
    sizes = cluster_rows.sizes(batches)
    work = pair_tasks.pack(sizes, pair_tasks.number(sizes, batches))
    outputs = engine.every(
        PAIRS, scope, [task.key for task in work],
        lambda some: pairs_task.submit(context, scope, batches, begin, some),
    )  # fmt: skip
    found = pair_tasks.together(outputs, sizes * context.recipe.work.pairs_per_sample)
    return OwnPairs(scope, found, tuple(outputs.values()))


def audit(engine: Engine, embedded: Embedded, clustered: Clustered) -> pair_recall.Recall | None:
    """The estimated share of the near pairs at eps that was compared for the rule; None: not requested."""
    context, ref, identities = engine.context, embedded.ref, clustered.identities
    section = context.recipe.audit
    if not section.queries:
        return None
    probes = probes_of(context.recipe.clusters, clustered.fit)
    used = used_probes(context.recipe, clustered.fit)
    if used >= clustered.fit.k:
        return pair_recall.WHOLE
    batches = clustered.batches  # audit uses the batches of assign
    draw_scope = DRAW.scope(clustered.scope, section.model_dump())
    drawn = engine.one(
        DRAW, draw_scope, CORPUS_KEY,
        lambda: draw_task.submit(context, draw_scope, ref, identities, tuple(batches.values())),
    )  # fmt: skip
    scope = AUDIT.scope(draw_scope, context.encoding.eps, *([] if used == probes else [used]))
    counted = engine.every(
        AUDIT, scope, list(batches),
        lambda keys: audit_task.submit(context, scope, ref, identities, batches, drawn, used, keys),
    )  # fmt: skip
    counts = np.sum([read_array(output.counts) for output in counted.values()], axis=0)
    return pair_recall.estimate(counts, drawn.images)


def resolve(engine: Engine, embedded: Embedded, clustered: Clustered, pairs: OwnPairs) -> Decided:
    """Decides over the whole corpus, then writes the decision tables by input shard."""
    context, corpus, earlier = engine.context, embedded.corpus, embedded.earlier
    recipe, ref, identities = context.recipe, embedded.ref, clustered.identities
    read = resolve_files(identities, clustered.batches, (*(earlier.pairs if earlier else ()), pairs), earlier)
    rules = recipe.dedup.model_dump(exclude={"eps", "eps_max"}) | {"keep": recipe.dedup.keep_rule}
    filters = recipe.filters.model_dump(exclude_none=True)
    last = read.earlier
    before = [f.digest for f in (last.reason, last.representative, last.similarity)] if last else []
    resolve_scope = RESOLVE.scope(
        pairs.scope, context.encoding.eps, rules, filters, corpus.tables_key, before
    )
    resolved = engine.one(
        RESOLVE, resolve_scope, CORPUS_KEY,
        lambda: resolve_task.submit(context, resolve_scope, ref, read),
    )  # fmt: skip
    if resolved.broken:
        raise Permanent(f"{resolved.broken} removed samples have no kept sample: this is a bug in made")
    urls = [part.shard.url for part in corpus.new]  # the output contains them
    # The tables name places in output shards whether these are written or not.
    layout = recipe.writing.model_dump(exclude={"shards"})
    scope = TABULATE.scope(resolve_scope, recipe.output, layout, urls)
    tables = engine.every(
        TABULATE,
        scope,
        corpus.batches(recipe.work.shards_per_task),
        lambda keys: tabulate_task.submit(context, scope, ref, identities, resolved, keys),
        expect=corpus.samples - corpus.begin,
        present=_published(engine, scope),
        missing=lambda: publish.unmark(recipe.output),
    )
    if mismatched := sum(output.mismatched for output in tables.values()):
        raise Permanent(
            f"{mismatched} similarities differ from those of the stored rows: this is a bug in made"
        )
    broken = sum(output.broken for output in tables.values())
    if broken and recipe.dedup.rule == "cover":
        raise Permanent(f"{broken} removed samples have no kept sample within eps: this is a bug in made")
    return Decided(scope, resolved, tuple(tables.values()))


def write(engine: Engine, embedded: Embedded, decided: Decided) -> tuple[WriteOutput, ...]:
    """Writes the output shards, numbered from 0 without gaps; none if writing.shards is false."""
    context, scope = engine.context, WRITE.scope(decided.digest)
    if not context.recipe.writing.shards:
        engine.display.say(f"write: no output shards ({NO_SHARDS})")
        return ()
    plan = Plan(decided.resolved.kept_samples, context.recipe.writing.samples_per_shard)
    outputs = engine.every(
        WRITE,
        scope,
        [plan.name(n) for n in range(plan.shards)],
        lambda keys: write_task.submit(context, scope, embedded.ref, decided.resolved, keys),
        expect=plan.kept,
        present=_published(engine, decided.digest),
        missing=lambda: publish.unmark(context.recipe.output),
    )
    return tuple(outputs.values())


def probes_of(clusters: Clusters, fit: FitOutput) -> int:
    """The number of nearest clusters in which an image is compared."""
    if clusters.probes != "auto":
        return min(clusters.probes, fit.k)
    return min(fit.probes or 1, fit.k)


def used_probes(recipe: Recipe, fit: FitOutput) -> int:
    """The number of nearest clusters whose pairs decide: rule `reference` uses those of the home cluster."""
    return 1 if recipe.dedup.rule == "reference" else probes_of(recipe.clusters, fit)


def put_corpus(engine: Engine, corpus: Corpus) -> FileRef:
    """Stores the corpus and records it as the run's."""
    recipe = engine.context.recipe
    folder = files.join(recipe.store_url, "corpora")
    ref: FileRef = retrying(recipe.work.attempts)(corpora.put, folder, corpus)
    engine.ledger.runs.put_corpus(engine.context.run, ref)
    return ref


def _published(engine: Engine, digest: str) -> Callable[[UnitOutput], bool]:
    """Whether a unit's files are in the published output of these decisions or where its attempt put them."""
    output = engine.context.recipe.output
    finished = publish.decisions_of(output) == digest
    return lambda unit: publish.present(output, unit.refs, finished)


def _expected(shards: Iterable[Shard]) -> int | None:
    """Total samples according to the shards' stats; None if a shard has no stats."""
    counts = [s.expected for s in shards]
    return None if None in counts else sum(c for c in counts if c is not None)
