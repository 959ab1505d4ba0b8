"""write: an output shard's samples, copied byte for byte."""

from __future__ import annotations

from collections.abc import Sequence

from prefect import task
from prefect.cache_policies import NO_CACHE

from made_core.corpus import corpus as corpora
from made_core.io import paths
from made_core.io.arrays import StoredArray
from made_core.output.plan import Plan
from made_core.output.write import write_shard
from made_core.types import FileRef, Stage, Unit
from tasks.units import Job, Made, Progress, work


@task(name="write", cache_policy=NO_CACHE, persist_result=False)
def write(job: Job, scope: str, corpus_ref: FileRef, kept_ref: FileRef, keys: Sequence[str]) -> None:
    """Writes output shards; a key is the shard's name, its number."""
    corpus = corpora.read(corpus_ref)

    def one(unit: Unit, progress: Progress) -> Made:
        kept = StoredArray(kept_ref)
        plan = Plan(len(kept), job.recipe.writing.samples_per_shard)
        start, stop = plan.slice(int(unit.key))
        gids = kept.rows(start, stop)
        url = paths.part_url(job.recipe.output, scope, "shards", unit.key, unit)
        refs = write_shard(corpus, gids, start, plan, url, progress)
        return Made(refs, len(gids))

    work(job, Stage.WRITE, scope, keys, one)
