"""publish: the attempts' files to their places, keep lists and report beside them, summary last."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from prefect import task
from prefect.cache_policies import NO_CACHE

from made_core.corpus import corpus as corpora
from made_core.io import files, paths
from made_core.output import decision_tables
from made_core.output import publish as output
from made_core.output.keep_lists import keep_array, kept_listing, write_keep_npy
from made_core.output.plan import Plan
from made_core.report import examples, report
from made_core.types import FileRef
from tasks.units import Job, open_log

GROUPS, MEMBERS = 24, 9  # of the report's images


@task(name="publish", cache_policy=NO_CACHE, persist_result=False)
def publish(
    job: Job,
    corpus_ref: FileRef,
    catalog_refs: tuple[FileRef, ...],
    decision_refs: tuple[FileRef, ...],
    refs: Sequence[FileRef],
    accounts: Sequence[dict[str, Any]],
    histogram: Sequence[int],
    summary: dict[str, Any],
) -> dict[str, Any]:
    """Makes the output whole and returns its summary; doing it twice does the same."""
    open_log(job.log_folder)
    place = partial(files.join, job.recipe.output)
    output.publish(job.recipe.output, refs)
    corpus = corpora.read(corpus_ref)
    decided = decision_tables.opened(catalog_refs, decision_refs)
    listing = kept_listing(corpus, decided)
    groups = examples.largest_groups(corpus, decided, GROUPS, MEMBERS)
    unreadable = examples.unreadable(corpus, decided)
    uids = [str(row["uid"]) for row in listing]
    columns = pa.schema([(name, pa.string()) for name in ("uid", "shard", "key")])
    table = pa.Table.from_pylist(listing, columns)
    files.put(place("keep.parquet"), partial(pq.write_table, table))
    if keep_array(uids) is None:
        files.remove(place("keep.npy"))
        summary["keep_npy"] = "not written: some uid is no 128-bit hex number"
    else:
        files.put(place("keep.npy"), lambda path: write_keep_npy(path, uids))
    files.put(place("accounts.parquet"), partial(pq.write_table, pa.Table.from_pylist(accounts)))
    plan = Plan(len(listing), job.recipe.writing.samples_per_shard)
    cuts = {f"{plan.name(n)}.tar": int(np.diff(plan.slice(n))[0]) for n in range(plan.shards)}
    files.put_bytes(place("shards", "sizes.json"), json.dumps(cuts, indent=4).encode())
    edges = np.linspace(job.bound, 1, len(histogram) + 1)
    page = report.render(
        summary,
        report.Histogram(tuple(edges.tolist()), tuple(histogram), 1 - job.encoding.eps),
        groups,
        unreadable,
        [(row["shard"], row["error"]) for row in accounts if row["error"]],
    )
    files.put_bytes(place("report.html"), page.encode())
    files.put_bytes(place(paths.SUMMARY), json.dumps(summary, indent=4).encode())
    return summary
