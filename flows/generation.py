"""What a finished run left in the store, for a run that extends its corpus, or a second look at it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Any

import numpy as np
import numpy.typing as npt

from made_core.cluster import cluster_rows, pair_tasks
from made_core.cluster.pair_tasks import PairTask
from made_core.corpus import corpus as corpora
from made_core.corpus.corpus import Corpus, Part
from made_core.dedup.inputs import ResolveFiles
from made_core.errors import DamagedFile, OutputError, RecipeError, SourceError, UserError
from made_core.ingest.discovery import Discovery
from made_core.io import files, stored
from made_core.ledger.ledger import Ledger
from made_core.ledger.records import Result, Run
from made_core.output import publish
from made_core.recipe import Recipe, digest
from made_core.recipe_file import validate
from made_core.types import Encoding, FileRef, RunState, Stage, UnitState

LOOKERS = 16  # threads that look whether files are there
ENDED = (RunState.COMPLETED, RunState.COMPLETED_WITH_FAILURES)


@dataclass(frozen=True)
class Paired:
    """The near pairs that one run found: those with an end among its new samples."""

    scope: str
    results: tuple[Result, ...]
    files: tuple[FileRef, ...]
    dense: tuple[int, ...]  # clusters with too many pairs to store

    @classmethod
    def of(cls, scope: str, results: Sequence[Result], most: npt.NDArray[np.int64]) -> Paired:
        """From the units' results; `most`: (k,) near pairs that may be stored of each cluster."""
        cut = [PairTask.of(r.key) for r in results]
        pairs, found = ([r.counts[name] for r in results] for name in ("pairs", "dense"))
        dense = pair_tasks.crowded(cut, pairs, found, most)
        # A slice's pairs are of no use where its cluster is dense: they are compared again.
        whole = [
            r.files[0] for s, r in zip(cut, results, strict=True) if s.parts == 1 or s.start not in dense
        ]
        return cls(scope, tuple(results), tuple(whole), tuple(dense))


@dataclass(frozen=True)
class Generation:
    """A corpus as of one run; its parts include those of the generations before."""

    run: Run
    number: int  # 1 for a corpus' first
    recipe: Recipe
    summary: dict[str, Any]
    corpus: Corpus
    catalog: Result
    fit: Result  # the first generation's: all share its centroids
    fit_scope: str
    scope: str  # of its assignment
    batches: dict[str, cluster_rows.Batch]  # by the range of parts
    assigned: tuple[Result, ...]  # of its own parts
    paired: tuple[Paired, ...]  # by each generation
    resolved: Result
    before: Generation | None

    @property
    def bound(self) -> float:
        """Stored pairs have a similarity above this."""
        return float(self.paired[0].results[0].counts["bound"])

    @property
    def sources(self) -> ResolveFiles:
        """All that decided who stays."""
        return sources(self.catalog, self.batches, self.paired, self.before)

    @property
    def mark(self) -> str:
        """A digest of what later generations build on: the corpus, its catalog and its decisions."""
        return digest([self.corpus.key, [f.digest for f in (*self.catalog.files, *self.resolved.files)]])

    @property
    def line(self) -> list[Generation]:
        """This one and those before it, the latest first."""
        return [self, *(self.before.line if self.before else ())]


def of(ledger: Ledger, run_id: str) -> Generation:
    """The generation that a run made.

    Raises:
        UserError: no such run, or one that did not end well, or whose output another run has taken, or
            that extends a run which was changed since.
        DamagedFile: its corpus is not in the store any more.
    """
    run = ledger.runs.get(run_id)
    if run is None:
        latest = ", ".join(r.id for r in ledger.runs.all()[:5]) or "none"
        raise UserError(f"no run {run_id} in the ledger; the latest are: {latest}")
    if run.state not in ENDED or run.replaced or run.summary is None or run.corpus is None:
        state = "replaced" if run.replaced else run.state.value
        raise UserError(f"run {run_id} is {state}: only a completed one that holds its output will do")
    recipe = validate(run.recipe, f"run {run_id}")
    before = of(ledger, recipe.extends) if recipe.extends else None
    if before and run.summary["extends"]["mark"] != before.mark:
        raise UserError(f"run {before.run.id} was changed since run {run_id} extended it: run that again")
    scopes = {s.stage: s.scope for s in ledger.stages.of(run_id)}

    def results(stage: Stage) -> list[Result]:
        found = list(ledger.units.results(stage, scopes[stage], None).values())
        if any(r.state is not UnitState.DONE for r in found) or not found:
            raise UserError(f"run {run_id}: its stage {stage.value} is not done any more; run it again")
        return sorted(found, key=lambda r: _number(r.key))

    (catalog,), (resolved,) = results(Stage.CATALOG), results(Stage.RESOLVE)
    (fit,) = results(Stage.FIT)
    assigned = results(Stage.ASSIGN)
    batches = before.batches if before else {}
    batches = batches | {r.key: cluster_rows.Batch(*r.files) for r in assigned}
    most = cluster_rows.sizes(tuple(batches.values())) * recipe.work.pairs_per_sample
    paired = Paired.of(scopes[Stage.PAIRS], results(Stage.PAIRS), most)
    corpus = corpora.read(run.corpus)
    embedded = ledger.units.results(
        Stage.EMBED, scopes[Stage.EMBED], [part.shard.fingerprint for part in corpus.new]
    )
    parts = before.corpus.parts if before else ()
    parts = (*parts, *(_as_now(part, embedded.get(part.shard.fingerprint)) for part in corpus.new))
    return Generation(
        run,
        before.number + 1 if before else 1,
        recipe,
        run.summary,
        Corpus(parts, corpus.known),
        catalog,
        fit,
        scopes[Stage.FIT],
        scopes[Stage.ASSIGN],
        batches,
        tuple(assigned),
        (*(before.paired if before else ()), paired),
        resolved,
        before,
    )


def sources(
    catalog: Result,
    batches: Mapping[str, cluster_rows.Batch],
    paired: Sequence[Paired],
    earlier: Generation | None,
) -> ResolveFiles:
    """All that decides who stays in a corpus that extends `earlier`'s."""
    return ResolveFiles(
        catalog.files,
        tuple(batches.values()),
        tuple(ref for p in paired for ref in p.files),
        tuple(sorted({c for p in paired for c in p.dense})),
        earlier.resolved.files if earlier else (),
    )


def merged(recipe: Recipe, earlier: Generation) -> Recipe:
    """`recipe`, what it does not say being as in the run that it extends.

    Raises:
        RecipeError: it asks for other clusters.
        OutputError: it asks for that run's output.
    """
    for one in earlier.line:
        if files.absolute(recipe.output) == one.run.output:
            raise OutputError(f"{recipe.output} is that of run {one.run.id}, which stays: name another")
    values = _laid_over(earlier.recipe.model_dump(), recipe.model_dump(exclude_unset=True))
    values |= {"sources": recipe.sources, "output": recipe.output, "extends": recipe.extends}
    result = validate(values, f"a run that extends {earlier.run.id}")
    if result.clusters != earlier.recipe.clusters:
        raise RecipeError(f"clusters are those of run {earlier.run.id}, which is extended: leave them out")
    return result


def _as_now(part: Part, result: Result | None) -> Part:
    """The part with the ledger's pointers, if they are to the same content: a file that was lost and
    made again has another name."""
    if result is None or [f.digest for f in result.files] != [part.rows.digest, part.table.digest]:
        return part
    return replace(part, rows=result.files[0], table=result.files[1])


def _number(key: str) -> int:
    """What a range's key begins with: ledgers sort keys as text."""
    digits = "".join(takewhile(str.isdigit, key))
    return int(digits or 0)


def _laid_over(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    result = dict(below)
    for name, value in above.items():
        if isinstance(value, dict) and isinstance(inner := result.get(name), dict):
            value = _laid_over(inner, value)
        result[name] = value
    return result


def new(found: Discovery, earlier: Generation) -> Discovery:
    """What was discovered and the earlier corpus does not have, by content.

    Raises:
        SourceError: nothing.
    """
    have = {part.shard.fingerprint for part in earlier.corpus.parts}
    shards = tuple(s for s in found.shards if s.fingerprint not in have)
    if not shards:
        raise SourceError(f"run {earlier.run.id} has all of the {len(found.shards)} shards already")
    return replace(found, shards=shards)


def check(earlier: Generation, encoding: Encoding, bound: float) -> None:
    """Sees to it that new rows and pairs can stand beside the earlier ones.

    Raises:
        RecipeError: another encoder, or pairs stored down to another similarity.
        OutputError: an earlier output or a file in the store does not stand as it was made.
    """
    name = f"run {earlier.run.id}, which is extended,"
    if encoding.key != (key := earlier.summary["encoder"]["key"]):
        raise RecipeError(f"{name} has the encoder {key}, this worker's is {encoding.key}: {encoding}")
    if abs(bound - earlier.bound) > 1e-12:
        raise RecipeError(
            f"{name} stored pairs down to eps_max {1 - earlier.bound:g}, this recipe asks for {1 - bound:g}"
        )
    for one in earlier.line:
        if publish.plan_of(one.run.output) != one.summary["plan"]:
            raise OutputError(f"run {one.run.id} has no finished output in {one.run.output} any more")
        own = (one.catalog, one.fit, *one.assigned, *one.paired[-1].results, one.resolved)
        if lost := gone([ref for result in own for ref in result.files]):
            raise OutputError(f"{lost[0]} is gone: `made retry {one.run.id}` makes it again")


def gone(refs: Sequence[FileRef]) -> list[str]:
    """The files that are not there, or not in their size. Raises StorageFailed."""

    def there(ref: FileRef) -> bool:
        try:
            stored.check_size(ref)
        except DamagedFile:
            return False
        return True

    with ThreadPoolExecutor(LOOKERS) as pool:  # the wait is for storage
        return [r.path for r, stands in zip(refs, pool.map(there, refs), strict=True) if not stands]
