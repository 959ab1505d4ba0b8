"""catalog: the metadata of all shards -> uids and classes of equal images."""

from __future__ import annotations

from prefect import task
from prefect.cache_policies import NO_CACHE

from made_core.corpus import corpus as corpora
from made_core.corpus import identity
from made_core.io import files
from made_core.types import FileRef, Stage, Unit
from tasks.units import Job, Made, Progress, work


@task(name="catalog", cache_policy=NO_CACHE, persist_result=False)
def catalog(job: Job, scope: str, corpus_ref: FileRef, earlier: tuple[FileRef, ...]) -> None:
    """Builds the corpus' catalog, two arrays; `earlier` is that of the corpus which it extends, or ()."""

    def one(unit: Unit, progress: Progress) -> Made:
        corpus = corpora.read(corpus_ref)
        built = identity.build(corpus, identity.read(earlier).first if earlier else None)
        url = files.join(job.recipe.store_url, "identity", scope, unit.name)
        counts = {
            "images": len(built.images),
            "readable": int((built.first >= 0).sum()),
        }
        return Made(identity.put(url, built), len(built.uids), counts)

    work(job, Stage.CATALOG, scope, ["catalog"], one)
