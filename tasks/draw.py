"""draw: the images whose near pairs are counted exhaustively to estimate the recall."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from prefect import task
from prefect.cache_policies import NO_CACHE

from made_core.corpus import corpus as corpora
from made_core.corpus import identity
from made_core.dedup import pair_recall
from made_core.io import paths
from made_core.io.arrays import put_array
from made_core.stages import CORPUS_KEY, DRAW, AssignOutput, DrawOutput, IdentifyOutput
from made_core.types import FileRef, Unit
from tasks.run_units import Progress, RunContext, run_units


@task(name="draw", task_run_name="draw", cache_policy=NO_CACHE, persist_result=False)
def draw(
    context: RunContext,
    scope: str,
    corpus_ref: FileRef,
    identities: IdentifyOutput,
    batches: Sequence[AssignOutput],
) -> None:
    """Draws `audit.queries` images by a seeded hash of their uids."""
    section = context.recipe.audit

    def one(unit: Unit, progress: Progress) -> DrawOutput:
        corpus, seed = corpora.read(corpus_ref), pair_recall.SEEDS + section.seed
        gids = np.sort(identity.drawn(identity.read(identities), section.queries, seed))
        url = paths.unit_url(context.recipe.store_url, DRAW, scope, unit)
        return DrawOutput(
            samples=len(gids),
            gids=put_array(f"{url}.gids.npy", gids),
            rows=put_array(f"{url}.rows.npy", corpus.gather(gids)),
            probes=put_array(f"{url}.probes.npy", pair_recall.probes_of(batches, gids)),
            images=identities.images,
        )

    run_units(context, DRAW, scope, [CORPUS_KEY], one)
