"""The results of a finished run in the store, for a run that extends its corpus or for a sweep of eps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Any, TypeVar

from flows.targets import known
from made_core.cluster import cluster_rows, pair_tasks
from made_core.cluster.pair_tasks import FoundPairs
from made_core.corpus import clip_scores
from made_core.corpus import corpus as corpora
from made_core.corpus.corpus import Corpus, Part
from made_core.dedup.inputs import ResolveFiles
from made_core.digests import digest
from made_core.errors import OutdatedRun, OutputError, RecipeError, SourceError, UserError
from made_core.ingest.discovery import Discovery
from made_core.io import files, stored
from made_core.ledger.ledger import Ledger
from made_core.ledger.records import REMEDY, Run
from made_core.output import publish, summary
from made_core.output.summary import Summary
from made_core.recipe import BUILTIN_ENCODERS, Recipe
from made_core.recipe_file import validate
from made_core.stages import (
    ASSIGN,
    CAPTIONS,
    EMBED,
    FIT,
    IDENTIFY,
    PAIRS,
    RESOLVE,
    AssignOutput,
    EmbedOutput,
    FitOutput,
    IdentifyOutput,
    PairsOutput,
    ResolveOutput,
    Stage,
    UnitOutput,
)
from made_core.types import Encoding, FileRef, RunState

ENDED = (RunState.COMPLETED, RunState.COMPLETED_WITH_FAILURES)
OutputT = TypeVar("OutputT", bound=UnitOutput)


@dataclass(frozen=True)
class OwnPairs:
    """The near pairs that one run found: pairs with at least one of its new samples."""

    scope: str
    found: FoundPairs
    outputs: tuple[PairsOutput, ...]  # of the run's pair tasks


@dataclass(frozen=True)
class Generation:
    """The corpus after one run, including the parts of earlier generations."""

    run: Run
    number: int  # 1 for the first generation
    recipe: Recipe
    summary: Summary
    corpus: Corpus
    identities: IdentifyOutput
    fit: FitOutput  # the first generation's: all share its centroids
    fit_scope: str
    scope: str  # of the assign stage
    batches: Mapping[str, AssignOutput]  # by the range of parts
    assigned: tuple[AssignOutput, ...]  # of its own parts
    pairs: tuple[OwnPairs, ...]  # one per generation
    resolved: ResolveOutput
    before: Generation | None

    @property
    def bound(self) -> float:
        """Stored pairs have a similarity above this."""
        return self.pairs[0].outputs[0].bound

    @property
    def resolve_files(self) -> ResolveFiles:
        """The files that the decisions were computed from."""
        return resolve_files(self.identities, self.batches, self.pairs, self.before)

    @property
    def mark(self) -> str:
        """A digest of the corpus, its identities and its decisions: what later generations build on."""
        return digest([self.corpus.key, [f.digest for f in (*self.identities.refs, *self.resolved.refs)]])

    @property
    def line(self) -> list[Generation]:
        """This generation and all earlier ones, latest first."""
        return [self, *(self.before.line if self.before else ())]

    @property
    def own_refs(self) -> list[FileRef]:
        """The files that this run itself wrote to the store, except embeddings."""
        units = (self.identities, self.fit, *self.assigned, *self.pairs[-1].outputs, self.resolved)
        return [ref for unit in units for ref in unit.refs]


def of(ledger: Ledger, run_id: str) -> Generation:
    """The generation that a run produced.

    Raises:
        UserError: no such run; or it did not complete, its output belongs to another run, it extends a
            run that has changed since, or its results are from another version of made.
        DamagedFile: its corpus is no longer in the store.
    """
    run = known(ledger, run_id)
    if run.state not in ENDED or run.replaced or run.summary is None or run.corpus is None:
        state = "replaced" if run.replaced else run.state.value
        raise UserError(
            f"run {run_id} is {state}: only a completed run that still owns its output can be used"
        )
    if outdated := ledger.progress.outdated(run_id):
        raise OutdatedRun(f"run {run_id}, made by another version of made ({', '.join(outdated)}); {REMEDY}")
    recipe = validate(run.recipe, f"run {run_id}")
    before = of(ledger, recipe.extends) if recipe.extends else None

    def outputs(stage: Stage[OutputT]) -> dict[str, OutputT]:
        results = ledger.units.of_run(run_id, stage)
        done = {key: r.output for key, r in results.items() if r.output is not None}
        if len(done) < len(results) or not results:
            raise UserError(f"run {run_id}: stage {stage.name} is no longer complete; re-run it")
        return {key: done[key] for key in sorted(done, key=_number)}

    (identities,) = outputs(IDENTIFY).values()
    (resolved,) = outputs(RESOLVE).values()
    (fit,) = outputs(FIT).values()
    own_batches = outputs(ASSIGN)
    batches = {**(before.batches if before else {}), **own_batches}
    most = cluster_rows.sizes(tuple(batches.values())) * recipe.work.pairs_per_sample
    pairs = outputs(PAIRS)
    scopes = {status.stage: status.scope for status in ledger.progress.of(run_id)}
    own_pairs = OwnPairs(scopes[PAIRS.name], pair_tasks.together(pairs, most), tuple(pairs.values()))
    found = summary.parsed(run.summary, run_id)
    if before and (found.extends is None or found.extends.mark != before.mark):
        raise UserError(f"run {before.run.id} has changed since run {run_id} extended it; re-run {run_id}")
    return Generation(
        run=run,
        number=before.number + 1 if before else 1,
        recipe=recipe,
        summary=found,
        corpus=_corpus(ledger, run_id, run.corpus, before),
        identities=identities,
        fit=fit,
        fit_scope=scopes[FIT.name],
        scope=scopes[ASSIGN.name],
        batches=batches,
        assigned=tuple(own_batches.values()),
        pairs=(*(before.pairs if before else ()), own_pairs),
        resolved=resolved,
        before=before,
    )


def _corpus(ledger: Ledger, run_id: str, ref: FileRef, before: Generation | None) -> Corpus:
    """The run's corpus with the ledger's current file names: a recomputed file has a new name."""
    corpus = corpora.read(ref)
    embedded, scored = ledger.units.of_run(run_id, EMBED), ledger.units.of_run(run_id, CAPTIONS)

    def current(part: Part) -> Part:
        result = embedded.get(part.shard.fingerprint)
        return part if result is None or result.output is None else _current(part, result.output)

    def current_scores(part: Part) -> Part:
        result, ours = scored.get(part.shard.fingerprint), part.tables.get(clip_scores.TABLE)
        table = None if result is None or result.output is None else result.output.table
        if ours is None or table is None or table.digest != ours.digest:
            return part
        return replace(part, tables={**part.tables, clip_scores.TABLE: table})

    parts = before.corpus.parts if before else ()
    return Corpus(tuple(map(current_scores, (*parts, *map(current, corpus.new)))), corpus.known)


def _current(part: Part, output: EmbedOutput) -> Part:
    """The part with the files of `output`, if their content is the same."""
    if [f.digest for f in output.refs] != [part.rows.digest, part.metadata.digest]:
        return part
    return replace(part, rows=output.rows, metadata=output.metadata)


def resolve_files(
    identities: IdentifyOutput,
    batches: Mapping[str, AssignOutput],
    pairs: Sequence[OwnPairs],
    earlier: Generation | None,
) -> ResolveFiles:
    """The files that the decisions on a corpus that extends `earlier` are computed from."""
    return ResolveFiles(
        identities,
        tuple(batches.values()),
        tuple(ref for own in pairs for ref in own.found.files),
        tuple(sorted({c for own in pairs for c in own.found.crowded})),
        earlier.resolved if earlier else None,
    )


def merged(recipe: Recipe, earlier: Generation) -> Recipe:
    """`recipe`, with unset fields taken from the run that it extends, which it names by its id.

    Raises:
        RecipeError: it sets other clusters, or an encoder or an eps that `check` would refuse.
        OutputError: its output is that of an extended run.
    """
    for one in earlier.line:
        if files.absolute(recipe.output) == one.run.output:
            raise OutputError(
                f"{recipe.output} is the output of run {one.run.id}, which is extended: choose another output"
            )
    values = _merged(earlier.recipe.model_dump(), recipe.model_dump(exclude_unset=True))
    values |= {"sources": recipe.sources, "output": recipe.output, "extends": earlier.run.id}
    result = validate(values, f"a run that extends {earlier.run.id}")
    if result.clusters != earlier.recipe.clusters:
        raise RecipeError(
            f"clusters cannot be changed when extending run {earlier.run.id}: remove them from the recipe"
        )
    _check_words(result, earlier)
    return result


def _check_words(recipe: Recipe, earlier: Generation) -> None:
    """Raises RecipeError if the words of a recipe show already what `check` would refuse."""
    name, most = f"extended run {earlier.run.id}", 1 - earlier.bound
    models = {recipe.encoder.model, earlier.recipe.encoder.model}
    if len(models) > 1 and models & {*BUILTIN_ENCODERS}:  # names of open_clip may mean the same weights
        old, new = earlier.recipe.encoder.model, recipe.encoder.model
        raise RecipeError(f"{name} has the encoder {old}, this recipe sets {new}")
    eps, eps_max = recipe.dedup.eps, recipe.dedup.eps_max
    if abs((eps_max or most) - most) > 1e-12 or (eps or 0) - most > 1e-12:
        raise RecipeError(f"{name} stored pairs up to eps_max {most:g}, this recipe sets {eps_max or eps:g}")


def _number(key: str) -> int:
    """The number at the start of a range key, to sort by: the ledger sorts keys as text."""
    digits = "".join(takewhile(str.isdigit, key))
    return int(digits or 0)


def _merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    result = dict(below)
    for name, value in above.items():
        if isinstance(value, dict) and isinstance(inner := result.get(name), dict):
            value = _merged(inner, value)
        result[name] = value
    return result


def new(found: Discovery, earlier: Generation) -> Discovery:
    """The discovered shards that the earlier corpus does not contain, by fingerprint.

    Raises:
        SourceError: there are none.
    """
    have = {part.shard.fingerprint for part in earlier.corpus.parts}
    shards = tuple(s for s in found.shards if s.fingerprint not in have)
    if not shards:
        raise SourceError(f"run {earlier.run.id} already contains all {len(found.shards)} shards")
    return replace(found, shards=shards)


def check(earlier: Generation, encoding: Encoding, bound: float) -> None:
    """Checks that new rows and pairs are comparable with the earlier ones.

    Raises:
        RecipeError: another encoder or another eps_max.
        OutputError: an earlier output or a file in the store is missing or changed.
    """
    name = f"extended run {earlier.run.id}"
    if encoding.key != (key := earlier.summary.encoder.key):
        raise RecipeError(f"{name} has the encoder {key}, this worker has {encoding.key}: {encoding}")
    if abs(bound - earlier.bound) > 1e-12:
        raise RecipeError(
            f"{name} stored pairs up to eps_max {1 - earlier.bound:g}, this recipe sets {1 - bound:g}"
        )
    for one in earlier.line:
        if publish.decisions_of(one.run.output) != one.summary.decisions_digest:
            raise OutputError(f"run {one.run.id} no longer has a finished output in {one.run.output}")
        if lost := stored.missing(one.own_refs):
            raise OutputError(f"{lost[0]} is missing: recompute it with `made retry {one.run.id}`")
