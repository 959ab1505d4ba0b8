"""embed: a shard's tar -> its embeddings and metadata in the store."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import ExitStack

from prefect import task
from prefect.cache_policies import NO_CACHE

from made_core.embed import embedded
from made_core.errors import CorruptShard, EncoderError
from made_core.io import files, paths
from made_core.recipe import Work
from made_core.stages import EMBED, EmbedOutput
from made_core.types import Shard, Unit
from tasks.run_units import Progress, RunContext, named, run_units


@task(name="embed", task_run_name=named("embed"), cache_policy=NO_CACHE, persist_result=False)
def embed(context: RunContext, scope: str, shards: Sequence[Shard]) -> None:
    """Embeds the shards. A unit's key is the shard's fingerprint, so equal shards are embedded once."""
    # Here: they import torch, which a flow does not need.
    from made_core.embed import encoder
    from made_core.embed.embed import Limits
    from made_core.embed.embed import embed as embed_tar

    recipe = context.recipe
    encoder.take_gpu(recipe.encoder, recipe.work)
    loaded = encoder.load(recipe.encoder)
    if loaded.encoding.key != context.encoding.key:
        raise EncoderError(f"this worker's encoder is {loaded.encoding}, but the run's is {context.encoding}")
    by_key = {s.fingerprint: s for s in shards}
    work = recipe.work
    limits = Limits(recipe.reading.max_pixels, _threads(work), work.samples_ahead)

    def one(unit: Unit, progress: Progress) -> EmbedOutput:
        shard = by_key[unit.key]
        url = paths.unit_url(recipe.store_url, EMBED, scope, unit)
        with ExitStack() as stack:
            try:
                path = stack.enter_context(files.local(shard.url))
                computed = embed_tar(path, shard, loaded, limits, progress)
            except FileNotFoundError as error:
                files.check_folder(shard.url)
                raise CorruptShard(f"{shard.url} is missing: {error}") from None
            return embedded.put(url, computed)

    run_units(context, EMBED, scope, {key: shard.id for key, shard in by_key.items()}, one)


def _threads(work: Work) -> int:
    cpus = work.cpus_per_task if work.embed_cpus_per_task == "auto" else work.embed_cpus_per_task
    return max(1, math.ceil(cpus))
