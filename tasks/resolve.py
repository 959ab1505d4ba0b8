"""resolve: pairs, filters and the keep rule -> the decision on every sample."""

from __future__ import annotations

from prefect import task
from prefect.cache_policies import NO_CACHE

from made_core.corpus import corpus as corpora
from made_core.dedup import decisions, inputs
from made_core.dedup.inputs import ResolveFiles
from made_core.io import paths
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
        url = paths.unit_url(context.recipe.store_url, RESOLVE, scope, unit)
        placeholder, begin = known.scan.placeholder, corpus.begin
        return decisions.put(url, decided, known.identities, known.cluster, placeholder, begin)

    run_units(context, RESOLVE, scope, [CORPUS_KEY], one)
