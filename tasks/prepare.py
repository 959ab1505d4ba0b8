"""prepare: resolve the encoder on a worker, where it will run, before any shard is read."""

from __future__ import annotations

from dataclasses import dataclass

from prefect import task
from prefect.cache_policies import NO_CACHE

from made_core.errors import RecipeError
from made_core.recipe import Recipe
from made_core.types import Encoding


@dataclass(frozen=True)
class Prepared:
    """The resolved recipe and encoder of a run."""

    recipe: Recipe  # with the encoder's device, precision and batch size settled
    encoding: Encoding
    warning: str | None  # about the encoder's settings on this worker


@task(name="prepare", task_run_name="prepare", cache_policy=NO_CACHE, persist_result=False)
def prepare(recipe: Recipe) -> Prepared:
    """Resolves the encoder of a recipe.

    Raises:
        EncoderError: the encoder cannot be used.
        RecipeError: dedup.eps_max is below the encoder's default eps.
    """
    # Here: they import torch, which a flow does not need.
    from made_core.embed import encoder
    from made_core.embed.settle import settle

    encoder.take_gpu(recipe.encoder, recipe.work)
    settled = settle(recipe.encoder)
    encoding = encoder.with_eps(encoder.load(settled.section).encoding, recipe.dedup.eps)
    eps_max = recipe.dedup.eps_max
    if eps_max is not None and eps_max < encoding.eps:
        raise RecipeError(
            f"dedup.eps_max is {eps_max:g}, below eps, {encoding.eps:g} (the encoder's default): pairs "
            "between them would not be stored; set eps_max to eps or more"
        )
    return Prepared(recipe.model_copy(update={"encoder": settled.section}), encoding, settled.warning)
