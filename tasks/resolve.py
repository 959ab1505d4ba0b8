"""resolve: pairs, filters and the keep rule -> every sample's decision."""

from __future__ import annotations

import numpy as np
from prefect import task
from prefect.cache_policies import NO_CACHE

from made_core.corpus import corpus as corpora
from made_core.dedup import inputs
from made_core.io import files
from made_core.io.arrays import put_array
from made_core.reasons import KEPT
from made_core.types import FileRef, Stage, Unit
from tasks.units import Job, Made, Progress, work


@task(name="resolve", cache_policy=NO_CACHE, persist_result=False)
def resolve(job: Job, scope: str, corpus_ref: FileRef, sources: inputs.ResolveFiles) -> None:
    """Decides globally; files: reason, representative, cluster (by gid) and the gids kept by this run."""

    def one(unit: Unit, progress: Progress) -> Made:
        corpus = corpora.read(corpus_ref)
        known = inputs.opened(corpus, sources, job.recipe)
        decided = known.decide(job.encoding.eps)
        stands = decided.representative[corpus.begin :]
        new = known.scan.placeholder[corpus.begin :]
        images = np.unique(known.catalog.first[corpus.begin :][new])
        url = files.join(job.recipe.store_url, "decisions", scope, unit.name)
        kept = np.flatnonzero(decided.reason[corpus.begin :] == KEPT) + corpus.begin
        refs = [
            put_array(f"{url}.reason.npy", decided.reason),
            put_array(f"{url}.representative.npy", decided.representative),
            put_array(f"{url}.cluster.npy", known.cluster),
            put_array(f"{url}.kept.npy", kept),
        ]
        counts = {
            "kept": len(kept),
            "stood_for_before": int(((stands >= 0) & (stands < corpus.begin)).sum()),
            "kept_before": int((decided.reason[: corpus.begin] == KEPT).sum()),
            "placeholders": {"images": len(images), "samples": int(new.sum())},
        }
        return Made(refs, corpus.samples - corpus.begin, counts)

    work(job, Stage.RESOLVE, scope, ["decisions"], one)
