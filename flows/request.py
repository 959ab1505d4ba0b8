"""A request to run a recipe, checked before anything starts. Imports neither Ray nor torch."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flows import preflight, targets
from made_core.errors import RecipeError
from made_core.ingest import discovery, finished, roots
from made_core.ingest.discovery import Discovery
from made_core.ingest.finished import Unfinished
from made_core.io import paths
from made_core.ledger.ledger import Ledger
from made_core.output.claim import check_claim
from made_core.recipe import Recipe
from made_core.recipe_file import validate
from made_core.settings import settings

if TYPE_CHECKING:  # most requests do not need it
    from flows.generation import Generation


@dataclass(frozen=True)
class Request:
    """A request that can be run."""

    recipe: Recipe  # with absolute paths
    replace: bool  # take over an output that belongs to a run of another recipe
    found: Discovery  # its shards; only the new ones if it extends a run
    earlier: Generation | None  # that it extends
    unfinished: tuple[Unfinished, ...]  # folders among the sources, whose run is told what is missing


def checked(url: str, recipe: object, replace: object, deployed: bool) -> Request:
    """Validates a request and checks all that can be checked without a worker.

    Args:
        url: of the ledger.
        recipe: a Recipe, or its fields as the request had them.
        replace: a bool, if the request is valid.
        deployed: whether a deployment's run asks: then relative paths are refused, because they would be
            relative to the worker's temporary folder.

    Raises:
        UserError: the request is not valid; the message is one sentence that says what to change.
        StorageFailed: the storage does not answer.
    """
    valid = recipe if isinstance(recipe, Recipe) else validate(recipe, None)
    if not isinstance(replace, bool):
        raise RecipeError(f"replace: expected true or false (it is {replace!r})")
    if deployed:
        paths.refuse_relative(valid)
    earlier = None
    if valid.extends is not None:
        valid, earlier = _extended(url, valid)
    valid = paths.located(valid)
    roots.confine(valid, settings().allowed)
    found = discovery.discover(valid.sources, valid.admission.require_stats)
    preflight.check(valid, [s.url for s in found.shards], settings().log_folder)
    if earlier:
        from flows import generation

        found = generation.new(found, earlier)
    check_claim(valid, replace, settings().log_folder)
    preflight.check_owner(url, valid, replace)
    folders = [finished.unfinished(s, valid.admission.require_stats, whole=False) for s in valid.sources]
    return Request(valid, replace, found, earlier, tuple(f for f in folders if f is not None))


def _extended(url: str, recipe: Recipe) -> tuple[Recipe, Generation]:
    """The recipe, with unset fields taken from the run that it extends, and that run's generation."""
    from flows import generation

    with closing(Ledger.open(url)) as ledger:
        run = targets.find(ledger, recipe.extends or "", show_outputs=False)  # the front door may ask
        earlier = generation.of(ledger, run.id)
    return generation.merged(recipe, earlier), earlier
