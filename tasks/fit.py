"""fit: the seeded sample's rows -> centroids."""

from __future__ import annotations

import numpy as np
from prefect import task
from prefect.cache_policies import NO_CACHE

from made_core.cluster import kmeans
from made_core.corpus import corpus as corpora
from made_core.corpus import identity
from made_core.errors import Permanent
from made_core.io import files
from made_core.io.arrays import put_array
from made_core.types import FileRef, Stage, Unit
from tasks.units import Job, Made, Progress, work


@task(name="fit", cache_policy=NO_CACHE, persist_result=False)
def fit(job: Job, scope: str, corpus_ref: FileRef, catalog_refs: tuple[FileRef, ...]) -> None:
    """Fits k-means on the images with the lowest uid hashes."""
    part = job.recipe.clusters

    def one(unit: Unit, progress: Progress) -> Made:
        corpus = corpora.read(corpus_ref)
        catalog = identity.read(catalog_refs)
        images = len(catalog.images)
        if not images:
            raise Permanent(f"none of {corpus.samples} samples has a readable image")
        k = kmeans.choose_k(part.k, images)
        gids = identity.training_sample(catalog, k * part.samples_per_centroid, part.seed)
        rows = corpus.gather(gids)
        fitted = kmeans.fit(rows, k, part.iterations, part.seed)
        assignment = kmeans.assign(rows, fitted, 1)
        fitted = kmeans.inhabited(fitted, assignment)
        url = files.join(job.recipe.store_url, "centroids", scope, f"{unit.name}.npy")
        counts = {
            "k": len(fitted),
            "images": images,
            "trained_on": len(gids),
            "mean_cosine": float(np.mean(1 - assignment.distance)),
        }
        return Made([put_array(url, fitted)], len(gids), counts)

    work(job, Stage.FIT, scope, ["centroids"], one)
