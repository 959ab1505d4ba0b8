"""audit: a sample of images against all -> how many near pairs there are, and how many were compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from prefect import task
from prefect.cache_policies import NO_CACHE

from made_core.cluster import cluster_rows
from made_core.corpus import corpus as corpora
from made_core.corpus import identity
from made_core.dedup import pair_recall
from made_core.embed import metadata
from made_core.io import files
from made_core.io.arrays import StoredArray, put_array, read_array
from made_core.types import FileRef, Stage, Unit
from tasks.units import Job, Made, Progress, work

QUERIES = "queries"  # the key of the unit that draws the sample


@task(name="audit", cache_policy=NO_CACHE, persist_result=False)
def audit(
    job: Job,
    scope: str,
    corpus_ref: FileRef,
    catalog_refs: tuple[FileRef, ...],
    batches: Mapping[str, cluster_rows.Batch],
    drawn: Sequence[FileRef],
    keys: Sequence[str],
) -> None:
    """Counts batches of the corpus' parts; a key is `<first part>-<last part + 1>`, or `queries`.

    Files: of `queries` its gids, rows and probes, which the others are given as `drawn`; of a batch
    (queries, 2) int64, each query's near pairs in these parts and those of them that were compared.
    """
    recipe, corpus = job.recipe, corpora.read(corpus_ref)

    def one(unit: Unit, progress: Progress) -> Made:
        url = files.join(recipe.store_url, "audits", scope, unit.name)
        if unit.key == QUERIES:
            catalog = identity.read(catalog_refs)
            size, seed = recipe.audit.queries, pair_recall.SEEDS + recipe.audit.seed
            gids = np.sort(identity.training_sample(catalog, size, seed))
            refs = [
                put_array(f"{url}.gids.npy", gids),
                put_array(f"{url}.rows.npy", corpus.gather(gids)),
                put_array(f"{url}.probes.npy", pair_recall.probes_of(list(batches.values()), gids)),
            ]
            return Made(refs, len(gids), {"images": len(catalog.images)})
        queries = pair_recall.Images(*(read_array(ref) for ref in drawn))
        counts = np.zeros((len(queries.gids), 2), np.int64)
        start, stop = (int(n) for n in unit.key.split("-"))
        done = 0
        parts = corpus.parts[start:stop]
        begin, end = parts[0].start, parts[-1].stop
        first = StoredArray(catalog_refs[1]).rows(begin, end)
        gids = np.flatnonzero(first == np.arange(begin, end)) + begin
        probes = pair_recall.probes_of([batches[unit.key]], gids)
        for part in parts:
            here = slice(*np.searchsorted(gids, [part.start, part.stop]))
            rows = metadata.read_rows(part.rows)[gids[here] - part.start]
            others = pair_recall.Images(gids[here], rows, probes[here])
            counts += pair_recall.count(queries, others, 1 - job.encoding.eps, recipe.work.block_rows)
            done += part.samples
            progress(done)
        return Made([put_array(f"{url}.counts.npy", counts)], done)

    work(job, Stage.AUDIT, scope, keys, one)
