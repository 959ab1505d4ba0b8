"""pairs: a pair task, a range of clusters or a slice of a large one -> its near pairs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from prefect import task
from prefect.cache_policies import NO_CACHE

from made_core.cluster import cluster_rows
from made_core.cluster.pair_tasks import PairTask
from made_core.dedup import near_pairs
from made_core.io import files, paths
from made_core.stages import PAIRS, AssignOutput, PairsOutput
from made_core.types import Unit
from tasks.run_units import Progress, RunContext, named, run_units


@task(name="pairs", task_run_name=named("pairs"), cache_policy=NO_CACHE, persist_result=False)
def pairs(
    context: RunContext, scope: str, batches: Sequence[AssignOutput], begin: int, keys: Sequence[str]
) -> None:
    """Finds the near pairs of the pair tasks with these keys.

    Skips pairs of two samples with gids below `begin`: an earlier run found them.
    """
    work, bound = context.recipe.work, context.bound

    def one(unit: Unit, progress: Progress) -> PairsOutput:
        asked = PairTask.of(unit.key)
        writer = near_pairs.Writer(bound, work.block_rows, work.pairs_per_sample, begin, progress)

        def write(path: Path) -> None:
            with (
                open(path, "wb") as file,
                cluster_rows.gathered(batches, asked.start, asked.stop) as clusters,
            ):
                for cluster in clusters:
                    writer.add(file, cluster.id, cluster.rows, cluster.members, asked.rows(len(cluster.rows)))

        url = paths.unit_url(context.recipe.store_url, PAIRS, scope, unit)
        ref = files.put(f"{url}.pairs", write)
        return PairsOutput(
            samples=writer.rows,
            pairs=ref,
            stored=int(writer.histogram.sum()),
            histogram=tuple(writer.histogram.tolist()),
            crowded=tuple(writer.crowded),
            bound=bound,
        )

    run_units(context, PAIRS, scope, keys, one)
