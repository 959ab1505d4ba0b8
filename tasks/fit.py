"""fit: the seeded sample's rows -> centroids."""

from __future__ import annotations

import numpy as np
from prefect import task
from prefect.cache_policies import NO_CACHE

from made_core import catalog as catalogs
from made_core import centroids, files
from made_core import corpus as corpora
from made_core.arrays import put_array
from made_core.data import FileRef, Stage, Unit
from made_core.errors import Permanent
from tasks.units import Job, Made, Progress, work


@task(name="fit", cache_policy=NO_CACHE, persist_result=False)
def fit(job: Job, scope: str, corpus_ref: FileRef, catalog_refs: tuple[FileRef, ...]) -> None:
    """Fits k-means on the pictures with the lowest uid hashes."""
    part = job.recipe.clusters

    def one(unit: Unit, progress: Progress) -> Made:
        corpus = corpora.read(corpus_ref)
        catalog = catalogs.read(catalog_refs)
        pictures = len(catalog.pictures)
        if not pictures:
            raise Permanent(f"none of {corpus.samples} samples has a readable picture")
        k = centroids.choose_k(part.k, pictures)
        gids = catalogs.training_sample(catalog, k * part.samples_per_centroid, part.seed)
        rows = corpus.gather(gids)
        fitted = centroids.fit(rows, k, part.iterations, part.seed)
        assignment = centroids.assign(rows, fitted, 1)
        fitted = centroids.inhabited(fitted, assignment)
        url = files.join(job.recipe.store_url, "centroids", scope, f"{unit.name}.npy")
        counts = {
            "k": len(fitted),
            "pictures": pictures,
            "trained_on": len(gids),
            "mean_cosine": float(np.mean(1 - assignment.distance)),
        }
        return Made([put_array(url, fitted)], len(gids), counts)

    work(job, Stage.FIT, scope, ["centroids"], one)
