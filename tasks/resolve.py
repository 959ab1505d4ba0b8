"""resolve: pairs, filters and the keep rule -> the decision on every sample."""

from __future__ import annotations

import numpy as np
from prefect import task
from prefect.cache_policies import NO_CACHE

from made_core.corpus import corpus as corpora
from made_core.dedup import inputs
from made_core.dedup.inputs import ResolveFiles
from made_core.io import paths
from made_core.io.arrays import put_array
from made_core.output.keep_lists import all_hex
from made_core.reasons import KEPT
from made_core.stages import CORPUS_KEY, RESOLVE, ResolveOutput
from made_core.types import FileRef, Unit
from tasks.run_units import Progress, RunContext, run_units


@task(name="resolve", task_run_name="resolve", cache_policy=NO_CACHE, persist_result=False)
def resolve(context: RunContext, scope: str, corpus_ref: FileRef, files: ResolveFiles) -> None:
    """Decides over the whole corpus."""

    def one(unit: Unit, progress: Progress) -> ResolveOutput:
        corpus = corpora.read(corpus_ref)
        known = inputs.read(corpus, files, context.recipe)
        decided = known.decisions(context.encoding.eps)
        begin = corpus.begin
        representative = decided.representative[begin:]
        placeholder = known.scan.placeholder[begin:]
        kept = np.flatnonzero(decided.reason[begin:] == KEPT) + begin
        url = paths.unit_url(context.recipe.store_url, RESOLVE, scope, unit)
        return ResolveOutput(
            samples=corpus.samples - begin,
            reason=put_array(f"{url}.reason.npy", decided.reason),
            representative=put_array(f"{url}.representative.npy", decided.representative),
            cluster=put_array(f"{url}.cluster.npy", known.cluster),
            kept=put_array(f"{url}.kept.npy", kept),
            kept_samples=len(kept),
            kept_earlier=int((decided.reason[:begin] == KEPT).sum()),
            represented_earlier=int(((representative >= 0) & (representative < begin)).sum()),
            placeholder_images=len(np.unique(known.identities.canonical[begin:][placeholder])),
            placeholder_samples=int(placeholder.sum()),
            hex_uids=all_hex(known.identities.uids[kept]),
        )

    run_units(context, RESOLVE, scope, [CORPUS_KEY], one)
