"""prepare: settle the encoder on a worker, where it will run, before any shard is touched."""

from __future__ import annotations

from prefect import task
from prefect.cache_policies import NO_CACHE

from made_core import encoder
from made_core.data import Encoding
from made_core.recipe import Recipe


@task(name="prepare", cache_policy=NO_CACHE, persist_result=False)
def prepare(recipe: Recipe) -> tuple[Recipe, Encoding]:
    """The recipe with its encoder's device, precision and batch size settled, and the encoding."""
    resolved = encoder.resolve(recipe.encoder)
    encoding = encoder.with_eps(encoder.load(resolved).encoding, recipe.dedup.eps)
    return recipe.model_copy(update={"encoder": resolved}), encoding
