"""pairs: a range of clusters, or a slice of a large one -> their near pairs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from prefect import task
from prefect.cache_policies import NO_CACHE

from made_core.cluster import cluster_rows
from made_core.cluster.pair_tasks import PairTask
from made_core.dedup import near_pairs
from made_core.io import files
from made_core.types import Stage, Unit
from tasks.units import Job, Made, Progress, work


@task(name="pairs", cache_policy=NO_CACHE, persist_result=False)
def pairs(
    job: Job, scope: str, batches: Sequence[cluster_rows.Batch], begin: int, keys: Sequence[str]
) -> None:
    """Finds the pairs of pair_tasks of clusters, named by their keys.

    Pairs of two samples before the gid `begin` are left out: an earlier run has them.
    """
    block = job.recipe.work.block_rows

    def one(unit: Unit, progress: Progress) -> Made:
        span = PairTask.of(unit.key)
        found = np.zeros(near_pairs.BINS, np.int64)
        dense: list[int] = []
        rows = 0

        def write(path: Path) -> None:
            nonlocal rows
            with open(path, "wb") as file, cluster_rows.gathered(batches, span.start, span.stop) as clusters:
                for cluster in clusters:
                    place, most = file.tell(), job.recipe.work.pairs_per_sample * len(cluster.members)
                    first, last = span.rows(len(cluster.members))
                    counts = np.zeros(near_pairs.BINS, np.int64)
                    for some in near_pairs.of_cluster(
                        cluster.id, cluster.rows, cluster.members, job.bound, block, (first, last), begin
                    ):
                        file.write(some.tobytes())
                        counts += near_pairs.histogram(some["similarity"], job.bound)
                        progress(rows)
                        if counts.sum() > most:  # too many to keep: compared when samples are walked
                            dense.append(cluster.id)
                            file.seek(place)
                            file.truncate()
                            break
                    found[:] += counts
                    rows += last - first
                    progress(rows)

        url = files.join(job.recipe.store_url, "pairs", scope, f"{unit.name}.pairs")
        ref = files.put(url, write)
        counted = {"pairs": int(found.sum()), "histogram": found.tolist(), "dense": dense, "bound": job.bound}
        return Made([ref], rows, counted)

    work(job, Stage.PAIRS, scope, keys, one)
