"""fit: the rows of a seeded training sample -> centroids; those of another sample -> the number of probes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE

from made_core.corpus import corpus as corpora
from made_core.corpus import identity
from made_core.errors import Permanent
from made_core.io import paths
from made_core.io.arrays import put_array
from made_core.stages import CORPUS_KEY, FIT, FitOutput, IdentifyOutput
from made_core.types import FileRef, Unit
from tasks.run_units import Progress, RunContext, run_units

if TYPE_CHECKING:
    from made_core.dedup.probes import Measured


@task(name="fit", task_run_name="fit", cache_policy=NO_CACHE, persist_result=False)
def fit(context: RunContext, scope: str, corpus_ref: FileRef, identities: IdentifyOutput) -> None:
    """Fits k-means on the images with the lowest uid hashes."""
    # Here: they import torch, which a flow does not need.
    from made_core.cluster import kmeans
    from made_core.dedup import probes

    section, gpus = context.recipe.clusters, context.recipe.work.gpus_per_task

    def one(unit: Unit, progress: Progress) -> FitOutput:
        corpus = corpora.read(corpus_ref)
        if not identities.images:
            raise Permanent(f"none of the {corpus.samples} samples has a readable image")
        k = kmeans.choose_k(section.k, identities.images)
        size = k * section.samples_per_centroid
        images = identity.shuffled(identity.read(identities), section.seed)
        rows = corpus.gather(images[:size])
        on_gpu = gpus != "auto" and gpus > 0  # reserved: Ray does not hide the others from a task
        fitted = kmeans.fit(rows, k, section.iterations, section.seed, gpu=on_gpu)
        home = kmeans.assign(rows, fitted, 1)[:, 0]
        distance = kmeans.distances(rows, fitted, home)
        fitted = kmeans.inhabited(fitted, home)
        found = None
        if section.probes == "auto":
            if len(images) > size:  # measured on others: k-means fits those that it is trained on better
                del rows
                rows = corpus.gather(images[-size:])
            found = probes.choose(rows, fitted, context.probes_eps)
            get_run_logger().info("%d probes: %s", found.probes, _why(found))
        url = paths.unit_url(context.recipe.store_url, FIT, scope, unit)
        return FitOutput(
            samples=min(size, len(images)),
            centroids=put_array(f"{url}.npy", fitted),
            k=len(fitted),
            images=identities.images,
            mean_cosine=float(np.mean(1 - distance)),
            probes=None if found is None else found.probes,
            probes_pairs=None if found is None else found.pairs,
            probes_recall=None if found is None else found.recall,
        )

    run_units(context, FIT, scope, [CORPUS_KEY], one)


def _why(found: Measured) -> str:
    if found.recall is None:
        return f"{found.pairs} near pairs were found in a sample, too few to tell"
    return f"they compare {found.recall:.2%} of the {found.pairs} near pairs found in a sample"
