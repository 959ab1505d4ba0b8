"""audit: a sample of pictures against all -> how many near pairs there are, and how many were compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from prefect import task
from prefect.cache_policies import NO_CACHE

from made_core import catalog as catalogs
from made_core import corpus as corpora
from made_core import embeddings, files, groups, recall
from made_core.data import FileRef, Stage, Unit
from tasks.units import Job, Made, Progress, work

QUERIES = "queries"  # the key of the unit that draws the sample


@task(name="audit", cache_policy=NO_CACHE, persist_result=False)
def audit(
    job: Job,
    scope: str,
    corpus_ref: FileRef,
    catalog_refs: tuple[FileRef, ...],
    batches: Mapping[str, groups.Batch],
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
            with catalogs.opened(catalog_refs) as catalog:
                size, seed = recipe.audit.queries, recall.SEEDS + recipe.audit.seed
                gids = np.sort(catalogs.training_sample(catalog, size, seed))
                pictures = len(catalog.pictures)
            refs = [
                corpora.put_array(f"{url}.gids.npy", gids),
                corpora.put_array(f"{url}.rows.npy", corpus.gather(gids)),
                corpora.put_array(f"{url}.probes.npy", recall.probes_of(list(batches.values()), gids)),
            ]
            return Made(refs, len(gids), {"pictures": pictures})
        queries = recall.Pictures(*(recall.read_array(ref) for ref in drawn))
        counts = np.zeros((len(queries.gids), 2), np.int64)
        start, stop = (int(n) for n in unit.key.split("-"))
        done = 0
        with catalogs.opened(catalog_refs) as catalog:
            for part in corpus.parts[start:stop]:
                first = np.asarray(catalog.first[part.start : part.stop])
                mine = np.flatnonzero(first == np.arange(part.start, part.stop))
                gids = mine + part.start
                probes = recall.probes_of([batches[unit.key]], gids)
                rows = embeddings.read_rows(part.rows)[mine]
                others = recall.Pictures(gids, rows, probes)
                counts += recall.count(queries, others, 1 - job.encoding.eps, recipe.work.block_rows)
                done += part.samples
                progress(done)
        return Made([corpora.put_array(f"{url}.counts.npy", counts)], done)

    work(job, Stage.AUDIT, scope, keys, one)
