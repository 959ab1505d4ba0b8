"""publish: move the units' files to their final names, write keep lists and report, then the summary."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pyarrow.parquet as pq
from prefect import task
from prefect.cache_policies import NO_CACHE

from made_core.corpus import corpus as corpora
from made_core.io import files, paths
from made_core.output import accounts, decision_tables
from made_core.output import publish as publishing
from made_core.output.accounts import ShardAccount
from made_core.output.keep_lists import kept_table, write_keep_npy
from made_core.output.plan import Plan
from made_core.output.summary import Summary
from made_core.report import charts, examples, report
from made_core.report.report import Group
from made_core.stages import IdentifyOutput, ResolveOutput, UnitOutput
from made_core.types import FileRef
from tasks.log_files import open_log
from tasks.run_units import RunContext

GROUPS, MEMBERS = 24, 9  # of example images in the report
DOUBTFUL = 24  # pairs in the report
SHOWN_GROUPS, SHOWN_MEMBERS = 6, 4  # in Prefect, which stores them in its database


@dataclass(frozen=True)
class Publication:
    """Everything that publishing an output needs."""

    corpus: FileRef
    identities: IdentifyOutput
    resolved: ResolveOutput
    outputs: tuple[UnitOutput, ...]  # of all stages whose files are in the output
    accounts: tuple[ShardAccount, ...]
    histogram: tuple[int, ...]  # of the stored pairs' similarities
    summary: Summary


@task(name="publish", task_run_name="publish", cache_policy=NO_CACHE, persist_result=False)
def publish(context: RunContext, given: Publication) -> list[Group]:
    """Publishes the output and returns some of the report's groups of duplicates. Idempotent."""
    open_log(context.log_folder)
    output, summary = context.recipe.output, given.summary
    place = partial(files.join, output)
    publishing.publish(output, [ref for unit in given.outputs for ref in unit.refs])
    corpus = corpora.read(given.corpus)
    decided = decision_tables.opened(given.identities, given.resolved)
    kept = kept_table(corpus, decided)
    files.put(place(paths.KEEP), partial(pq.write_table, kept))
    if given.resolved.hex_uids:
        files.put(place(paths.KEEP_ARRAY), lambda path: write_keep_npy(path, kept["uid"]))
    else:
        files.remove(place(paths.KEEP_ARRAY))
    files.put(place(paths.ACCOUNTS), partial(pq.write_table, accounts.table(given.accounts)))
    if context.recipe.writing.shards:
        plan = Plan(len(kept), context.recipe.writing.samples_per_shard)
        cuts = {f"{plan.name(n)}.tar": int(np.diff(plan.slice(n))[0]) for n in range(plan.shards)}
        files.put_bytes(place("shards", paths.SIZES), json.dumps(cuts, indent=4).encode())
    groups = examples.largest_groups(corpus, decided, GROUPS, MEMBERS)
    edges = np.linspace(context.bound, 1, len(given.histogram) + 1)
    page = report.render(
        summary,
        charts.Histogram(tuple(edges.tolist()), given.histogram, 1 - context.encoding.eps),
        groups,
        examples.unreadable(corpus, decided),
        [(row.shard, row.error) for row in given.accounts if row.error],
        examples.least_certain(corpus, decided, context.encoding.eps, DOUBTFUL),
    )
    files.put_bytes(place(paths.REPORT), page.encode())
    files.put_bytes(place(paths.SUMMARY), summary.json_text().encode())
    return [replace(group, removed=group.removed[:SHOWN_MEMBERS]) for group in groups[:SHOWN_GROUPS]]
