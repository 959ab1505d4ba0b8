"""resolve: pairs, filters and the keep rule -> every sample's decision."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack

import numpy as np
from prefect import task
from prefect.cache_policies import NO_CACHE

from made_core import catalog as catalogs
from made_core import corpus as corpora
from made_core import decisions, files, groups, order
from made_core import pairs as near_pairs
from made_core.arrays import put_array
from made_core.data import FileRef, Stage, Unit
from made_core.filters import KEPT
from tasks.units import Job, Made, Progress, work


@task(name="resolve", cache_policy=NO_CACHE, persist_result=False)
def resolve(
    job: Job,
    scope: str,
    corpus_ref: FileRef,
    catalog_refs: tuple[FileRef, ...],
    batches: Sequence[groups.Batch],
    pair_refs: Sequence[FileRef],
    dense: Sequence[int],
) -> None:
    """Decides globally; files: reason, representative, cluster (by gid) and the kept gids."""

    def one(unit: Unit, progress: Progress) -> Made:
        corpus = corpora.read(corpus_ref)
        catalog = catalogs.read(catalog_refs)
        with ExitStack() as stack:
            crowds = [
                crowd for c in dense for crowd in stack.enter_context(groups.gathered(batches, c, c + 1))
            ]
            cluster, distance = groups.homes(batches, catalog.first)
            dropped, values = decisions.survey(corpus, job.recipe)
            by_distance = order.of_distance(job.recipe.dedup, distance, catalog.uids)
            decided = decisions.decide(
                catalog,
                dropped,
                values if by_distance is None else by_distance,
                cluster,
                near_pairs.read(pair_refs),
                job.recipe.dedup,
                job.encoding.eps,
                crowds,
            )
        url = files.join(job.recipe.store_url, "decisions", scope, unit.name)
        kept = np.flatnonzero(decided.reason == KEPT)
        refs = [
            put_array(f"{url}.reason.npy", decided.reason),
            put_array(f"{url}.representative.npy", decided.representative),
            put_array(f"{url}.cluster.npy", cluster),
            put_array(f"{url}.kept.npy", kept),
        ]
        return Made(refs, corpus.samples, {"kept": len(kept)})

    work(job, Stage.RESOLVE, scope, ["decisions"], one)
