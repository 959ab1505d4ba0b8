"""identify: the metadata of all shards -> uids and canonical images."""

from __future__ import annotations

from prefect import task
from prefect.cache_policies import NO_CACHE

from made_core.corpus import corpus as corpora
from made_core.corpus import identity
from made_core.io import paths
from made_core.stages import CORPUS_KEY, IDENTIFY, IdentifyOutput
from made_core.types import FileRef, Unit
from tasks.run_units import Progress, RunContext, run_units


@task(name="identify", task_run_name="identify", cache_policy=NO_CACHE, persist_result=False)
def identify(context: RunContext, scope: str, corpus_ref: FileRef, earlier: IdentifyOutput | None) -> None:
    """Identifies the samples of the corpus; `earlier`: the identities of the corpus that it extends."""

    def one(unit: Unit, progress: Progress) -> IdentifyOutput:
        corpus = corpora.read(corpus_ref)
        built = identity.build(corpus, identity.read(earlier).canonical if earlier else None)
        return identity.put(paths.unit_url(context.recipe.store_url, IDENTIFY, scope, unit), built)

    run_units(context, IDENTIFY, scope, [CORPUS_KEY], one)
