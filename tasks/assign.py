"""assign: a batch of shards -> the cluster rows of its images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from prefect import task
from prefect.cache_policies import NO_CACHE

from made_core.cluster import cluster_rows
from made_core.corpus import corpus as corpora
from made_core.embed import metadata
from made_core.io import paths
from made_core.io.arrays import StoredArray, read_array
from made_core.stages import ASSIGN, AssignOutput, FitOutput, IdentifyOutput
from made_core.types import FileRef, Unit
from tasks.run_units import Progress, RunContext, named, run_units


@task(name="assign", task_run_name=named("assign"), cache_policy=NO_CACHE, persist_result=False)
def assign(
    context: RunContext,
    scope: str,
    corpus_ref: FileRef,
    identities: IdentifyOutput,
    fit: FitOutput,
    probes: int,
    keys: Sequence[str],
) -> None:
    """Assigns batches of the corpus' parts; a key is `<first part>-<last part + 1>`."""
    from made_core.cluster import kmeans  # here: it imports torch, which a flow does not need

    centroids = read_array(fit.centroids)
    corpus = corpora.read(corpus_ref)

    def one(unit: Unit, progress: Progress) -> AssignOutput:
        rows, gids, done = [], [], 0
        canonical = StoredArray(identities.canonical)
        for part in corpus.batch(unit.key):
            first = canonical.rows(part.start, part.stop)
            mine = np.flatnonzero(first == np.arange(part.start, part.stop))
            rows.append(metadata.read_rows(part.rows)[mine])
            gids.append(mine + part.start)
            done += part.samples
            progress(done)
        together = np.concatenate(rows)
        nearest = kmeans.assign(together, centroids, probes)
        distance = kmeans.distances(together, centroids, nearest[:, 0])
        url = paths.unit_url(context.recipe.store_url, ASSIGN, scope, unit)
        images = np.concatenate(gids)
        return cluster_rows.put(url, images, together, nearest, distance, len(centroids), done)

    run_units(context, ASSIGN, scope, keys, one)
