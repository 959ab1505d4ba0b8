"""audit: the drawn images and a batch of shards -> counts of near pairs and of those compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from prefect import task
from prefect.cache_policies import NO_CACHE

from made_core.corpus import corpus as corpora
from made_core.dedup import pair_recall
from made_core.embed import metadata
from made_core.io import paths
from made_core.io.arrays import StoredArray, put_array, read_array
from made_core.stages import AUDIT, AssignOutput, AuditOutput, DrawOutput, IdentifyOutput
from made_core.types import FileRef, Unit
from tasks.run_units import Progress, RunContext, named, run_units


@task(name="audit", task_run_name=named("audit"), cache_policy=NO_CACHE, persist_result=False)
def audit(
    context: RunContext,
    scope: str,
    corpus_ref: FileRef,
    identities: IdentifyOutput,
    batches: Mapping[str, AssignOutput],
    drawn: DrawOutput,
    used: int,
    keys: Sequence[str],
) -> None:
    """Counts batches of the corpus' parts; a key is `<first part>-<last part + 1>`.

    used: number of each image's nearest clusters whose pairs the rule uses.
    """
    recipe, corpus = context.recipe, corpora.read(corpus_ref)
    drawn_gids, drawn_rows, nearest = (read_array(ref) for ref in (drawn.gids, drawn.rows, drawn.probes))
    queries = pair_recall.Images(drawn_gids, drawn_rows, nearest[:, :used])

    def one(unit: Unit, progress: Progress) -> AuditOutput:
        counts = np.zeros((len(queries.gids), 2), np.int64)
        done = 0
        parts = corpus.batch(unit.key)
        begin, end = parts[0].start, parts[-1].stop
        canonical = StoredArray(identities.canonical).rows(begin, end)
        gids = np.flatnonzero(canonical == np.arange(begin, end)) + begin
        probes = pair_recall.probes_of([batches[unit.key]], gids)[:, :used]
        for part in parts:
            here = slice(*np.searchsorted(gids, [part.start, part.stop]))
            rows = metadata.read_rows(part.rows)[gids[here] - part.start]
            others = pair_recall.Images(gids[here], rows, probes[here])
            counts += pair_recall.count(queries, others, 1 - context.encoding.eps, recipe.work.block_rows)
            done += part.samples
            progress(done)
        url = paths.unit_url(recipe.store_url, AUDIT, scope, unit)
        return AuditOutput(samples=done, counts=put_array(f"{url}.counts.npy", counts))

    run_units(context, AUDIT, scope, keys, one)
