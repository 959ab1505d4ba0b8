"""prepare: settle the encoder on a worker, where it will run, before any shard is touched."""

from __future__ import annotations

from dataclasses import dataclass

from prefect import task
from prefect.cache_policies import NO_CACHE

from made_core.embed import encoder
from made_core.errors import RecipeError
from made_core.recipe import Recipe
from made_core.types import Encoding


@dataclass(frozen=True)
class Prepared:
    """What a worker settles before any shard is touched."""

    recipe: Recipe  # with its encoder's device, precision and batch size settled
    encoding: Encoding


@task(name="prepare", cache_policy=NO_CACHE, persist_result=False)
def prepare(recipe: Recipe) -> Prepared:
    """Settles the encoder of a recipe.

    Raises:
        EncoderError: the encoder does not fit.
        RecipeError: pairs would be stored only above the similarity at which they count.
    """
    resolved = encoder.resolve(recipe.encoder)
    encoding = encoder.with_eps(encoder.load(resolved).encoding, recipe.dedup.eps)
    eps_max = recipe.dedup.eps_max
    if eps_max is not None and eps_max < encoding.eps:
        raise RecipeError(
            f"dedup.eps_max is {eps_max:g}, below eps, {encoding.eps:g} (the encoder's default): pairs "
            "between them would be lost; allowed: eps or more"
        )
    return Prepared(recipe.model_copy(update={"encoder": resolved}), encoding)
