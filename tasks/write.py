"""write: the samples of an output shard, copied byte for byte."""

from __future__ import annotations

from collections.abc import Sequence

from prefect import task
from prefect.cache_policies import NO_CACHE

from made_core.corpus import corpus as corpora
from made_core.io import paths
from made_core.io.arrays import StoredArray
from made_core.output.plan import Plan
from made_core.output.write import write_shard
from made_core.stages import WRITE, ResolveOutput, WriteOutput
from made_core.types import FileRef, Unit
from tasks.run_units import Progress, RunContext, named, run_units


@task(name="write", task_run_name=named("write"), cache_policy=NO_CACHE, persist_result=False)
def write(
    context: RunContext, scope: str, corpus_ref: FileRef, resolved: ResolveOutput, keys: Sequence[str]
) -> None:
    """Writes output shards. A key is the shard's name, which is its number."""
    corpus = corpora.read(corpus_ref)

    def one(unit: Unit, progress: Progress) -> WriteOutput:
        kept = StoredArray(resolved.kept)
        plan = Plan(len(kept), context.recipe.writing.samples_per_shard)
        start, stop = plan.slice(int(unit.key))
        url = paths.part_url(context.recipe.output, WRITE, scope, unit.key, unit)
        return write_shard(corpus, kept.rows(start, stop), start, plan, url, progress)

    run_units(context, WRITE, scope, keys, one)
