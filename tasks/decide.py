"""decide: a batch of input shards -> their decisions, a row for every sample."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import pyarrow.parquet as pq
from prefect import task
from prefect.cache_policies import NO_CACHE

from made_core.corpus import corpus as corpora
from made_core.io import files, paths
from made_core.output import decision_tables
from made_core.output.accounts import account
from made_core.output.plan import Plan
from made_core.types import FileRef, Stage, Unit
from tasks.units import Job, Made, Progress, work


@task(name="decide", cache_policy=NO_CACHE, persist_result=False)
def decide(
    job: Job,
    scope: str,
    corpus_ref: FileRef,
    catalog_refs: tuple[FileRef, ...],
    decision_refs: tuple[FileRef, ...],
    keys: Sequence[str],
) -> None:
    """Writes the decisions of batches of parts and checks the promise; keys as in assign."""
    corpus = corpora.read(corpus_ref)

    def one(unit: Unit, progress: Progress) -> Made:
        start, stop = (int(n) for n in unit.key.split("-"))
        refs, by_shard, checked, broken, done = [], {}, 0, 0, 0
        decided = decision_tables.opened(catalog_refs, decision_refs)
        plan = Plan(len(decided.kept), job.recipe.writing.samples_per_shard)
        for part in corpus.parts[start:stop]:
            columns, check = decision_tables.columns(part, corpus, decided, plan, 1 - job.encoding.eps)
            table = decision_tables.table(part, columns)

            def write(path: Path, table: object = table) -> None:
                pq.write_table(table, path, compression="zstd")

            name = paths.part_url(job.recipe.output, scope, "decisions", part.shard.id, unit)
            refs.append(files.put(f"{name}.parquet", write))
            by_shard[part.shard.id] = asdict(account(columns.reason))
            checked, broken = checked + check.checked, broken + check.broken
            done += part.samples
            progress(done)
        counts = {"accounts": by_shard, "checked": checked, "broken": broken}
        return Made(refs, done, counts)

    work(job, Stage.DECIDE, scope, keys, one)
