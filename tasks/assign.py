"""assign: a batch of shards -> its images' rows regrouped by cluster."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from prefect import task
from prefect.cache_policies import NO_CACHE

from made_core.cluster import cluster_rows, kmeans
from made_core.corpus import corpus as corpora
from made_core.embed import metadata
from made_core.io import files
from made_core.io.arrays import StoredArray, read_array
from made_core.types import FileRef, Stage, Unit
from tasks.units import Job, Made, Progress, work


@task(name="assign", cache_policy=NO_CACHE, persist_result=False)
def assign(
    job: Job,
    scope: str,
    corpus_ref: FileRef,
    catalog_refs: tuple[FileRef, ...],
    centroids_ref: FileRef,
    keys: Sequence[str],
) -> None:
    """Assigns batches of the corpus' parts; a key is `<first part>-<last part + 1>`."""
    fitted = read_array(centroids_ref)
    corpus = corpora.read(corpus_ref)

    def one(unit: Unit, progress: Progress) -> Made:
        start, stop = (int(n) for n in unit.key.split("-"))
        rows, gids, done = [], [], 0
        canonicals = StoredArray(catalog_refs[1])
        for part in corpus.parts[start:stop]:
            first = canonicals.rows(part.start, part.stop)
            mine = np.flatnonzero(first == np.arange(part.start, part.stop))
            rows.append(metadata.read_rows(part.rows)[mine])
            gids.append(mine + part.start)
            done += part.samples
            progress(done)
        together = np.concatenate(rows)
        assignment = kmeans.assign(together, fitted, job.recipe.clusters.probes)
        url = files.join(job.recipe.store_url, "groups", scope, unit.name)
        refs = cluster_rows.put(url, np.concatenate(gids), together, assignment, len(fitted))
        counts = {"images": len(together), "distance": float(assignment.distance.sum())}
        return Made(refs, done, counts)

    work(job, Stage.ASSIGN, scope, keys, one)
