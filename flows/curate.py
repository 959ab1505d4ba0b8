"""The flow `made`: shards in, a smaller set of shards out, every sample accounted for."""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from datetime import datetime, timezone
from typing import Any
from uuid import uuid4

from prefect import flow

from flows import generation, preflight, servers, steps, summary
from flows.engine import Engine, answer, runner
from flows.generation import Generation
from flows.progress import Display
from made_core.errors import LeaseLost, MadeError
from made_core.ingest import discovery
from made_core.io import files, paths
from made_core.io.paths import located
from made_core.ledger import cleanup
from made_core.ledger.ledger import Ledger
from made_core.output import publish as output
from made_core.output.claim import claim_output
from made_core.recipe import Recipe
from made_core.retries import retrying
from made_core.types import RunState
from tasks.prepare import prepare
from tasks.publish import publish
from tasks.units import Job

logger = logging.getLogger("prefect.made")


@flow(name="made", task_runner=runner(), persist_result=False)
def curate(
    recipe: Recipe, replace: bool = False, log_folder: str | None = None, quiet: bool = True
) -> dict[str, Any]:
    """Curates a data set. Returns what summary.json holds.

    Args:
        recipe: what to do, from where, to where.
        replace: take over an output that belongs to another recipe's run.
        log_folder: where workers put their logs.
        quiet: show no progress on the terminal.

    Raises:
        UserError: something in the recipe, the sources, the encoder or the output does not fit.
        MadeError: the run could not go on.
    """
    started = time.time()
    with Display(quiet) as display, servers.database() as url:
        recipe, earlier = _extended(url, recipe)
        recipe = located(recipe)
        found = discovery.discover(recipe.sources, recipe.admission.require_stats)
        preflight.check(recipe, [s.url for s in found.shards], log_folder)
        if earlier:
            found = generation.new(found, earlier)
        with _held(url, recipe, replace, log_folder) as (ledger, run):
            display.say(f"run {run}: {len(found.shards)} shards -> {recipe.output}")
            ledger.runs.put_shards(run, found.shards)
            display.say(f"loading the encoder {recipe.encoder.model}{_source(recipe)}")
            patiently = retrying(recipe.work.attempts)
            recipe, encoding = patiently(answer, prepare, recipe)
            job = Job(run, url, recipe, encoding, log_folder)
            if earlier:
                generation.check(earlier, encoding, job.bound)
            engine = Engine(ledger, job, display)

            embedded = steps.embed(engine, found.shards, earlier)
            clustered = steps.cluster(engine, embedded)
            paired = steps.pair(engine, embedded, clustered)
            audited = summary.recall(engine, clustered, steps.audit(engine, embedded, clustered))
            decided = steps.decide(engine, embedded, clustered, paired)
            written = steps.write(engine, embedded, decided)

            rows = summary.accounts(found.shards, embedded, decided)
            told = summary.summarise(
                engine, started, found, rows, embedded, clustered, paired, decided, written, audited
            )
            result = _standing(recipe.output, decided.scope)
            if result is not None and summary.equal(result, told):
                display.say("nothing is different: the output stands as it is")
            else:
                parts = [ref for r in (*decided.by_shard, *written) for ref in r.files]
                refs = embedded.ref, clustered.catalog.files, decided.resolved.files, parts
                histogram = summary.histogram(paired)

                def published() -> dict[str, Any]:
                    _still_ours(ledger, run, recipe)
                    return dict(answer(publish, job, *refs, rows, histogram, told))

                result = patiently(published)
            _sweep(engine)
            _end(ledger, run, RunState(result["state"]), result, None)
            return dict(result)


def _extended(url: str, recipe: Recipe) -> tuple[Recipe, Generation | None]:
    """The recipe and the generation that it extends, what it does not say taken from there."""
    if recipe.extends is None:
        return recipe, None
    with closing(Ledger.open(url)) as ledger:
        earlier = generation.of(ledger, recipe.extends)
    return generation.merged(recipe, earlier), earlier


@contextmanager
def _held(url: str, recipe: Recipe, replace: bool, log_folder: str | None) -> Iterator[tuple[Ledger, str]]:
    """The ledger and the run's id, the run held by this process until it ends, however it does."""
    ledger = Ledger.open(url)
    seconds = recipe.work.lease_seconds
    stop = threading.Event()
    new = f"{datetime.now(timezone.utc):%Y%m%d-%H%M%S}-{uuid4().hex[:4]}"
    run = ledger.runs.begin(
        new, recipe.identity, recipe.model_dump(mode="json"), recipe.output, recipe.store_url,
        _holder(), seconds, replace,
    )  # fmt: skip

    def renew() -> None:
        while not stop.wait(seconds / 3):
            try:
                _still_ours(ledger, run, recipe)
            except LeaseLost as error:  # the flow meets it too, before it publishes or ends
                logger.error("%s", error)
                return
            except Exception:
                logger.warning("run %s: its lease is not renewed, another try follows", run, exc_info=True)

    thread = threading.Thread(target=renew, daemon=True)
    thread.start()
    try:
        retrying(recipe.work.attempts)(claim_output, recipe, run, replace, log_folder)
        yield ledger, run
    except BaseException as error:
        logger.info("run %s failed", run, exc_info=True)
        text = str(error) if isinstance(error, MadeError) else repr(error)
        if not isinstance(error, Exception):  # Ctrl-C, SIGTERM
            text = "interrupted: the same command goes on with it"
        with suppress(LeaseLost):  # the run is another's: it says itself how it ends
            _end(ledger, run, RunState.FAILED, None, text)
        raise
    finally:
        stop.set()
        thread.join()
        ledger.close()


def _still_ours(ledger: Ledger, run: str, recipe: Recipe) -> None:
    """Renews the run's lease; raises LeaseLost where this process, suspended perhaps, has it no longer."""
    if not ledger.runs.renew(run, _holder(), recipe.work.lease_seconds):
        raise LeaseLost(f"run {run} is no longer held by {_holder()}, nor is its output {recipe.output}")


def _source(recipe: Recipe) -> str:
    """Where its weights come from, where that may take a while."""
    weights = recipe.encoder.pretrained
    if weights is None or files.exists(weights):
        return ""
    return f", weights {weights!r}: downloaded where the worker does not have them"


def _standing(place: str, plan: str) -> dict[str, Any] | None:
    """The summary of the finished output of these decisions; None: it is not there."""
    if output.plan_of(place) != plan:
        return None
    result: dict[str, Any] = json.loads(files.read(files.join(place, paths.SUMMARY)))
    return result


def _sweep(engine: Engine) -> None:
    """Removes what dead attempts left, and says so; where that fails, the run is what it was."""
    ledger, job, swept = engine.ledger, engine.job, cleanup.Removed()
    try:
        for stage in ledger.stages.of(job.run):
            swept += cleanup.clean_stage(ledger, job.recipe.store_url, stage.stage, stage.scope)
        if ledger.runs.renew(job.run, _holder(), job.recipe.work.lease_seconds):  # the output is ours
            swept += cleanup.clean_output(job.recipe.output)
    except Exception as error:
        logger.warning("run %s: not all that dead attempts left is swept", job.run, exc_info=True)
        engine.display.say(f"not all that dead attempts left is swept: {error}")
    if swept.files:
        engine.display.say(f"swept {swept.files:,} files ({swept.bytes:,} bytes) that dead attempts left")


def _end(ledger: Ledger, run: str, state: RunState, result: dict[str, Any] | None, error: str | None) -> None:
    ledger.runs.end(run, _holder(), state, result, error)


def _holder() -> str:
    return f"{socket.gethostname()}:{os.getpid()}"
