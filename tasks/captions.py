"""captions: an embedded shard -> the embeddings and CLIP scores of its captions."""

from __future__ import annotations

from collections.abc import Sequence

from prefect import task
from prefect.cache_policies import NO_CACHE

from made_core.corpus.corpus import Part
from made_core.errors import EncoderError
from made_core.io import paths
from made_core.stages import CAPTIONS, CaptionsOutput
from made_core.types import Unit
from tasks.run_units import Progress, RunContext, named, run_units


@task(name="captions", task_run_name=named("captions"), cache_policy=NO_CACHE, persist_result=False)
def captions(context: RunContext, scope: str, parts: Sequence[Part]) -> None:
    """Embeds the captions of parts of the corpus; a unit's key is the shard's fingerprint."""
    # Here: they import torch, which a flow does not need.
    from made_core.embed import captions as of_captions
    from made_core.embed import encoder

    recipe, by_key = context.recipe, {p.shard.fingerprint: p for p in parts}
    encoder.take_gpu(recipe.encoder, recipe.work)
    tower = encoder.load(recipe.encoder).text
    if tower is None or tower.key != context.encoding.caption_key:
        raise EncoderError(f"this worker's text tower differs from that of {context.encoding}")

    def one(unit: Unit, progress: Progress) -> CaptionsOutput:
        part = by_key[unit.key]
        url = paths.unit_url(recipe.store_url, CAPTIONS, scope, unit)
        return of_captions.embed(url, part.rows, part.metadata, tower, progress)

    run_units(context, CAPTIONS, scope, {key: part.shard.id for key, part in by_key.items()}, one)
