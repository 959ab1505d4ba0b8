"""A run: reads shards, writes a smaller set of shards and accounts for every sample."""

from __future__ import annotations

import logging
import time

from flows import generation, placement, steps, summarise
from flows.artifacts import put_result, shown_progress
from flows.engine import Engine, on_ray, run_task
from flows.flow_run import FlowRun
from flows.hold import Held, held
from flows.outcome import Outcome
from flows.progress import Display
from flows.request import Request
from flows.watch import Watch
from made_core.dedup import metadata_scan
from made_core.io import files
from made_core.ledger import cleanup
from made_core.output import publish as publishing
from made_core.output import summary as summaries
from made_core.recipe import Recipe
from made_core.report.report import Group
from made_core.retries import retrying
from made_core.settings import settings
from made_core.stages import STAGES
from tasks import log_files
from tasks.prepare import prepare
from tasks.publish import Publication, publish
from tasks.run_units import RunContext

logger = logging.getLogger("prefect.made")


def run_request(url: str, request: Request, display: Display, flow_run: FlowRun, watch: Watch) -> Outcome:
    """Runs a request that was checked, inside a flow; tasks run on Ray, which starts here.

    Args:
        url: of the ledger.
        flow_run: whose page in Prefect shows the run.
        watch: knows whether the run was cancelled.

    Raises:
        UserError: the encoder cannot be used, another process took the output meanwhile, or no sample has a
            number that the recipe reads.
        MadeError: the run failed.
    """
    started = time.time()
    recipe, found, earlier = request.recipe, request.found, request.earlier
    with (
        held(url, recipe, request.replace, flow_run, watch) as ours,
        shown_progress(flow_run, ours.ledger, ours.run, recipe.output),
        on_ray(),
    ):
        ledger, run = ours.ledger, ours.run
        display.say(f"run {run}: {len(found.shards)} shards -> {recipe.output}")
        ledger.runs.put_shards(run, found.shards)
        recipe = placement.settled(placement.nodes(), recipe)
        display.say(f"loading the encoder {recipe.encoder.model}{_source(recipe)}")
        with_retries = retrying(recipe.work.attempts)
        prepared = with_retries(run_task, prepare, recipe, resources=placement.of_embed(recipe.work))
        recipe = prepared.recipe
        if prepared.warning:
            display.say(f"warning: {prepared.warning}")
        log_folder = settings().log_folder
        log_files.prune(log_folder)
        context = RunContext(run, url, recipe, prepared.encoding, log_folder, len(found.shards))
        if earlier:
            generation.check(earlier, context.encoding, context.bound)
        engine = Engine(ledger, context, display, ours.check)
        _forget_outdated(engine)

        embedded = steps.embed(engine, found.shards, earlier)
        embedded = steps.captions(engine, embedded)
        with_retries(metadata_scan.check_numbers, embedded.corpus, recipe)
        clustered = steps.cluster(engine, embedded)
        pairs = steps.pair(engine, embedded, clustered)
        audited = steps.audit(engine, embedded, clustered)
        decided = steps.resolve(engine, embedded, clustered, pairs)
        written = steps.write(engine, embedded, decided)

        rows = summarise.accounts(found.shards, embedded, decided)
        result = summarise.summarise(
            engine, started, request, rows, embedded, clustered, pairs, decided, written, audited
        )
        groups: list[Group] = []
        published = summaries.read(recipe.output)
        there = publishing.is_complete(recipe.output, decided.resolved.hex_uids, recipe.writing.shards)
        if there and published is not None and published.same_output(result):
            display.say("the output is up to date")
            result = published
        else:
            given = Publication(
                embedded.ref, clustered.identities, decided.resolved, (*decided.tables, *written),
                rows, pairs.found.histogram, result,
            )  # fmt: skip

            def publish_ours() -> list[Group]:
                ours.still_ours()
                return run_task(publish, context, given)

            groups = with_retries(publish_ours)
        _clean_up(engine, ours)
        ours.end(result.state, result, None)
    outcome = Outcome(result, embedded.failed, found.refused, request.unfinished)
    put_result(flow_run, result, outcome.failed, outcome.unread, groups)
    return outcome


def _forget_outdated(engine: Engine) -> None:
    """Reports which results of the run are from another version of made, and forgets them."""
    progress, run = engine.ledger.progress, engine.context.run
    if outdated := progress.outdated(run):
        engine.display.say(f"made by another version of made, recomputing: {', '.join(outdated)}")
        progress.forget_outdated(run)


def _source(recipe: Recipe) -> str:
    """A note on the encoder's weights if they may have to be downloaded, else empty."""
    weights = recipe.encoder.pretrained
    if weights is None or files.exists(weights):
        return ""
    return f", weights {weights!r}: downloaded if the worker does not have them"


def _clean_up(engine: Engine, ours: Held) -> None:
    """Removes files of dead attempts. A failed cleanup is reported and does not fail the run."""
    ledger, context, removed = engine.ledger, engine.context, cleanup.Removed()
    try:
        scopes = {status.stage: status.scope for status in ledger.progress.of(context.run)}
        for stage in STAGES:
            if stage.name in scopes:
                removed += cleanup.clean_stage(ledger, context.recipe.store_url, stage, scopes[stage.name])
        ours.still_ours()  # the output too
        removed += cleanup.clean_output(context.recipe.output)
    except Exception as error:
        logger.warning("run %s: cleanup of dead attempts failed", context.run, exc_info=True)
        engine.display.say(f"cleanup of dead attempts failed: {error}")
    if removed.files:
        engine.display.say(f"removed {removed.files:,} files ({removed.bytes:,} bytes) of dead attempts")
