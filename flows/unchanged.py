"""Whether a request asks for what a completed run has already produced. Imports neither Ray nor torch."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

from flows.request import Request
from made_core import __version__
from made_core.errors import MadeError
from made_core.ingest import discovery
from made_core.ingest.discovery import Discovery
from made_core.io import files, stored
from made_core.ledger.ledger import Ledger
from made_core.ledger.records import Run
from made_core.output import publish, summary
from made_core.output.summary import Summary
from made_core.recipe import Recipe
from made_core.recipe_file import validate
from made_core.stages import RESOLVE, STAGES
from made_core.types import FileRef, RunState


def result(url: str, request: Request) -> Summary | None:
    """The summary of a completed run that has done what a request asks for; None if something may be missing.

    Weights in a file are always loaded anew, because only a worker sees whether they have changed; and a run
    that extends another checks that one.

    Args:
        url: of the ledger.
    """
    if request.earlier is not None or request.unfinished:
        return None
    return of_recipe(url, request.recipe, request.found)


def of_recipe(url: str, recipe: Recipe, found: Discovery | None) -> Summary | None:
    """`result` for a recipe with absolute paths; `found` None: it is discovered if there is such a run."""
    with closing(Ledger.open(url)) as ledger:
        run = ledger.runs.of_output(recipe.output)
        if run is None or run.held or _reads_file(recipe) or not _same(run, recipe):
            return None
        found = found or discovery.discover(recipe.sources, recipe.admission.require_stats)
        same = set(found.shards) == set(ledger.runs.shards(run.id))
        if found.refused or not same or not whole(ledger, run):
            return None
    published = summary.read(recipe.output)
    if published is None or published.made != __version__ or published.lacks_shards:
        return None  # img2dataset has finished the folders since then
    return published


def whole(ledger: Ledger, run: Run) -> bool:
    """Whether a completed run's output and its files in the store exist and are of this version."""
    if run.state is not RunState.COMPLETED or run.summary is None or ledger.progress.outdated(run.id):
        return False
    if publish.decisions_of(run.output) != run.summary.get("decisions_digest"):
        return False
    resolved = [r.output for r in ledger.units.of_run(run.id, RESOLVE).values() if r.output is not None]
    hex_uids = any(output.hex_uids for output in resolved)
    if not publish.is_complete(run.output, hex_uids, summary.has_shards(run.summary)):
        return False
    in_store: list[FileRef] = []
    published: list[FileRef] = []
    for stage in STAGES:
        outputs = (r.output for r in ledger.units.of_run(run.id, stage).values())
        refs = [ref for output in outputs if output is not None for ref in output.refs]
        (published if stage.in_output else in_store).extend(refs)
    with ThreadPoolExecutor(stored.STAT_THREADS) as pool:
        there = pool.map(lambda ref: publish.present(run.output, [ref], is_published=True), published)
        return all(there) and not stored.missing(in_store)


def _reads_file(recipe: Recipe) -> bool:
    """Whether the encoder is read from a file of the user's, and not known by its name."""
    weights = recipe.encoder.pretrained or ""
    return recipe.encoder.config is not None or "/" in weights or bool(weights and files.exists(weights))


def _same(run: Run, recipe: Recipe) -> bool:
    """Whether a run has this recipe, except how its work is done."""
    try:
        known = validate(run.recipe, f"run {run.id}")
    except MadeError:  # of another version of made
        return False
    how = {"work"}
    return known.model_dump(exclude=how) == recipe.model_dump(exclude=how)
