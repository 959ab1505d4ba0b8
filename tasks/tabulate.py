"""tabulate: a batch of input shards -> their decision tables, one row per sample."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import pyarrow.parquet as pq
from prefect import task
from prefect.cache_policies import NO_CACHE

from made_core.corpus import corpus as corpora
from made_core.io import files, paths
from made_core.output import decision_tables
from made_core.output.accounts import account
from made_core.output.plan import Plan
from made_core.reasons import KEPT
from made_core.stages import TABULATE, IdentifyOutput, ResolveOutput, TabulateOutput
from made_core.types import Account, FileRef, Unit
from tasks.run_units import Progress, RunContext, named, run_units


@task(name="tabulate", task_run_name=named("tabulate"), cache_policy=NO_CACHE, persist_result=False)
def tabulate(
    context: RunContext,
    scope: str,
    corpus_ref: FileRef,
    identities: IdentifyOutput,
    resolved: ResolveOutput,
    keys: Sequence[str],
) -> None:
    """Writes the decision tables of batches of parts and checks every representative; keys as in assign."""
    recipe, corpus = context.recipe, corpora.read(corpus_ref)

    def one(unit: Unit, progress: Progress) -> TabulateOutput:
        tables: dict[str, FileRef] = {}
        accounts: dict[str, Account] = {}
        checks: list[decision_tables.Check] = []
        done = 0
        decided = decision_tables.opened(identities, resolved)
        plan = Plan(len(decided.kept), recipe.writing.samples_per_shard)
        parts, bound = corpus.batch(unit.key), 1 - context.encoding.eps
        before = decided.kept_before(parts[0].start)
        for part in parts:
            columns, check = decision_tables.columns(part, corpus, decided, plan, bound, before)
            before += int((columns.reason == KEPT).sum())
            table = decision_tables.table(part, columns)
            url = paths.part_url(recipe.output, TABULATE, scope, f"{part.shard.id}.parquet", unit)
            tables[part.shard.id] = files.put(url, partial(pq.write_table, table, compression="zstd"))
            accounts[part.shard.id] = account(columns.reason)
            checks.append(check)
            done += part.samples
            progress(done)
        return TabulateOutput(
            samples=done,
            tables=tables,
            accounts=accounts,
            checked=sum(c.checked for c in checks),
            recomputed=sum(c.recomputed for c in checks),
            mismatched=sum(c.mismatched for c in checks),
            broken=sum(c.broken for c in checks),
        )

    run_units(context, TABULATE, scope, keys, one)
