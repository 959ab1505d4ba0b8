"""embed: a shard's tar -> its embeddings and metadata in the store."""

from __future__ import annotations

import math
from collections.abc import Sequence

from prefect import task
from prefect.cache_policies import NO_CACHE

from made_core.embed import embed as embeddings
from made_core.embed import encoder, metadata
from made_core.errors import CorruptShard, EncoderError
from made_core.io import files
from made_core.types import Shard, Stage, Unit
from tasks.units import Job, Made, Progress, work


@task(name="embed", cache_policy=NO_CACHE, persist_result=False)
def embed(job: Job, scope: str, shards: Sequence[Shard]) -> None:
    """Embeds the shards; the unit's key is the fingerprint, so equal shards are embedded once."""
    loaded = encoder.load(job.recipe.encoder)
    if loaded.encoding.key != job.encoding.key:
        raise EncoderError(f"this worker's encoder is {loaded.encoding}, the run's {job.encoding}")
    by_key = {s.fingerprint: s for s in shards}
    threads = max(1, math.ceil(job.recipe.work.cpus_per_task))

    def one(unit: Unit, progress: Progress) -> Made:
        shard = by_key[unit.key]
        try:
            with files.local(shard.url) as path:
                rows, table, stray = embeddings.embed(
                    path, shard, loaded, job.recipe.reading.max_pixels, threads, progress
                )
        except FileNotFoundError as error:
            raise CorruptShard(f"{shard.url} is gone: {error}") from None
        url = files.join(job.recipe.store_url, "embeddings", scope, unit.name)
        refs = metadata.put(url, rows, table)
        unreadable = table["error"].length() - table["error"].null_count
        warnings = table["warning"].length() - table["warning"].null_count
        counts = {"unreadable": unreadable, "warnings": warnings, "stray": stray}
        return Made(refs, len(table), counts)

    work(job, Stage.EMBED, scope, list(by_key), one)
