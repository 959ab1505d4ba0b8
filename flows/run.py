"""A run: reads shards, writes a smaller set of shards and accounts for every sample."""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from uuid import uuid4

from flows import generation, steps, summarise
from flows.engine import Engine, on_ray, run_task
from flows.progress import Display
from flows.request import Request
from made_core.errors import LeaseLost, MadeError
from made_core.io import files
from made_core.ledger import cleanup
from made_core.ledger.ledger import Ledger
from made_core.output import summary as summaries
from made_core.output.claim import claim_output
from made_core.output.summary import Summary
from made_core.recipe import Recipe
from made_core.retries import retrying
from made_core.settings import settings
from made_core.stages import STAGES
from made_core.types import RunState
from tasks.prepare import prepare
from tasks.publish import Publication, publish
from tasks.run_units import RunContext

logger = logging.getLogger("prefect.made")


def run_request(url: str, request: Request, display: Display) -> Summary:
    """Runs a request that was checked, inside a flow; tasks run on Ray, which starts here.

    Args:
        url: of the ledger.

    Raises:
        UserError: the encoder cannot be used, or another process took the output meanwhile.
        MadeError: the run failed.
    """
    started = time.time()
    recipe, found, earlier = request.recipe, request.found, request.earlier
    with _held(url, request) as (ledger, run), on_ray():
        display.say(f"run {run}: {len(found.shards)} shards -> {recipe.output}")
        ledger.runs.put_shards(run, found.shards)
        display.say(f"loading the encoder {recipe.encoder.model}{_source(recipe)}")
        with_retries = retrying(recipe.work.attempts)
        prepared = with_retries(run_task, prepare, recipe)
        recipe = prepared.recipe
        context = RunContext(run, url, recipe, prepared.encoding, settings().log_folder)
        if earlier:
            generation.check(earlier, context.encoding, context.bound)
        engine = Engine(ledger, context, display)
        _forget_outdated(engine)

        embedded = steps.embed(engine, found.shards, earlier)
        clustered = steps.cluster(engine, embedded)
        pairs = steps.pair(engine, embedded, clustered)
        audited = steps.audit(engine, embedded, clustered)
        decided = steps.resolve(engine, embedded, clustered, pairs)
        written = steps.write(engine, embedded, decided)

        rows = summarise.accounts(found.shards, embedded, decided)
        result = summarise.summarise(
            engine, started, found, rows, embedded, clustered, pairs, decided, written, audited
        )
        published = summaries.read(recipe.output)
        if published is not None and published.same_output(result):
            display.say("the output is up to date")
            result = published
        else:
            given = Publication(
                embedded.ref, clustered.identities, decided.resolved, (*decided.tables, *written),
                rows, pairs.found.histogram, result,
            )  # fmt: skip

            def publish_ours() -> None:
                _still_ours(ledger, run, recipe)
                run_task(publish, context, given)

            with_retries(publish_ours)
        _clean_up(engine)
        _end(ledger, run, result.state, result, None)
        return result


def _forget_outdated(engine: Engine) -> None:
    """Reports which results of the run are from another version of made, and forgets them."""
    progress, run = engine.ledger.progress, engine.context.run
    if outdated := progress.outdated(run):
        engine.display.say(f"made by another version of made, recomputing: {', '.join(outdated)}")
        progress.forget_outdated(run)


@contextmanager
def _held(url: str, request: Request) -> Iterator[tuple[Ledger, str]]:
    """The ledger and the run's id. This process holds the run's lease inside the context."""
    ledger, recipe, replace = Ledger.open(url), request.recipe, request.replace
    seconds = recipe.work.lease_seconds
    stop = threading.Event()
    new = f"{datetime.now(timezone.utc):%Y%m%d-%H%M%S}-{uuid4().hex[:4]}"
    run = ledger.runs.begin(
        new, recipe.recipe_digest, recipe.model_dump(mode="json"), recipe.output, recipe.store_url,
        _holder(), seconds, replace,
    )  # fmt: skip

    def renew() -> None:
        while not stop.wait(seconds / 3):
            try:
                _still_ours(ledger, run, recipe)
            except LeaseLost as error:  # the flow also raises it before it publishes or ends
                logger.error("%s", error)
                return
            except Exception:
                logger.warning("run %s: lease not renewed, retrying", run, exc_info=True)

    thread = threading.Thread(target=renew, daemon=True)
    thread.start()
    try:
        retrying(recipe.work.attempts)(claim_output, recipe, run, replace, settings().log_folder)
        yield ledger, run
    except BaseException as error:
        logger.info("run %s failed", run, exc_info=True)
        text = str(error) if isinstance(error, MadeError) else repr(error)
        if not isinstance(error, Exception):  # Ctrl-C, SIGTERM
            text = "interrupted: re-run to resume"
        with suppress(LeaseLost):  # another process holds the run and records how it ends
            _end(ledger, run, RunState.FAILED, None, text)
        raise
    finally:
        stop.set()
        thread.join()
        ledger.close()


def _still_ours(ledger: Ledger, run: str, recipe: Recipe) -> None:
    """Renews the run's lease. Raises LeaseLost if another process took it, for example after a suspend."""
    if not ledger.runs.renew(run, _holder(), recipe.work.lease_seconds):
        raise LeaseLost(f"run {run} and its output {recipe.output} are no longer held by {_holder()}")


def _source(recipe: Recipe) -> str:
    """A note on the encoder's weights if they may have to be downloaded, else empty."""
    weights = recipe.encoder.pretrained
    if weights is None or files.exists(weights):
        return ""
    return f", weights {weights!r}: downloaded if the worker does not have them"


def _clean_up(engine: Engine) -> None:
    """Removes files of dead attempts. A failed cleanup is reported and does not fail the run."""
    ledger, context, removed = engine.ledger, engine.context, cleanup.Removed()
    try:
        scopes = {status.stage: status.scope for status in ledger.progress.of(context.run)}
        for stage in STAGES:
            if stage.name in scopes:
                removed += cleanup.clean_stage(ledger, context.recipe.store_url, stage, scopes[stage.name])
        if ledger.runs.renew(
            context.run, _holder(), context.recipe.work.lease_seconds
        ):  # we still own the output
            removed += cleanup.clean_output(context.recipe.output)
    except Exception as error:
        logger.warning("run %s: cleanup of dead attempts failed", context.run, exc_info=True)
        engine.display.say(f"cleanup of dead attempts failed: {error}")
    if removed.files:
        engine.display.say(f"removed {removed.files:,} files ({removed.bytes:,} bytes) of dead attempts")


def _end(ledger: Ledger, run: str, state: RunState, result: Summary | None, error: str | None) -> None:
    document = None if result is None else result.document()
    ledger.runs.end(run, _holder(), state, document, error)


def _holder() -> str:
    return f"{socket.gethostname()}:{os.getpid()}"
