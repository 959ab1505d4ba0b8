"""assign: a batch of shards -> its pictures' rows regrouped by cluster."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from prefect import task
from prefect.cache_policies import NO_CACHE

from made_core import centroids, embeddings, files, groups
from made_core import corpus as corpora
from made_core.data import FileRef, Stage, Unit
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
    with files.stored(centroids_ref) as path:
        fitted = np.load(path)
    corpus = corpora.read(corpus_ref)

    def one(unit: Unit, progress: Progress) -> Made:
        start, stop = (int(n) for n in unit.key.split("-"))
        rows, gids, done = [], [], 0
        parts = corpus.parts[start:stop]
        begin = parts[0].start
        with corpora.sliced(catalog_refs[1], begin, parts[-1].stop) as firsts:
            for part in parts:
                first = np.asarray(firsts[part.start - begin : part.stop - begin])
                mine = np.flatnonzero(first == np.arange(part.start, part.stop))
                rows.append(embeddings.read_rows(part.rows)[mine])
                gids.append(mine + part.start)
                done += part.samples
                progress(done)
        together = np.concatenate(rows)
        assignment = centroids.assign(together, fitted, job.recipe.clusters.probes)
        url = files.join(job.recipe.store_url, "groups", scope, unit.name)
        refs = groups.put(url, np.concatenate(gids), together, assignment, len(fitted))
        counts = {"pictures": len(together), "distance": float(assignment.distance.sum())}
        return Made(refs, done, counts)

    work(job, Stage.ASSIGN, scope, keys, one)
