"""`made trigger`: asks the front door for a run when an upstream job has ended."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import httpx
from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_exponential

from flows.service import state, tokens
from flows.service.records import CANCELLED, COMPLETED, TriggeredRun
from made_core.errors import StorageFailed, UserError
from made_core.ingest import discovery, finished
from made_core.io import files, paths
from made_core.recipe import Recipe
from made_core.recipe_file import load
from made_core.settings import settings

POLL_SECONDS = 2.0  # between two looks at a run
PROGRESS_SECONDS = 30.0  # between two lines about one stage
PATIENCE_SECONDS = 300.0  # for a front door that does not answer while a run is followed
ANSWER_SECONDS = 300.0  # for the start of a run: all shards are fingerprinted first
DONE, FAILED, WITH_FAILURES = 0, 1, 3  # exit codes, as of `made curate`


class NoAnswer(StorageFailed):
    """The front door does not answer."""

    head = "front door"


def wanted(recipe: str | None, overrides: dict[str, Any], sets: list[str]) -> dict[str, Any]:
    """The fields of a recipe that are given, with absolute paths.

    Raises:
        UserError: the recipe is not valid, or img2dataset has not finished a source, unless a run is
            extended.
        StorageFailed: the storage of a source does not answer.
    """
    given = load(recipe, overrides, sets)
    at = paths.located(given)
    if given.extends is None:  # otherwise the admission is that run's, which the front door knows
        finished.check(at.sources, at.admission.require_stats)
        discovery.expand(at.sources, at.admission.require_stats)
    return _absolute(given, at).model_dump(mode="json", exclude_unset=True)


def start(door: httpx.Client, recipe: dict[str, Any]) -> tuple[TriggeredRun, bool]:
    """The run for `recipe`, and whether it was started now.

    Raises:
        UserError: the front door refuses the recipe or the token, or does not answer.
    """
    try:
        answer = door.post("/runs", json=recipe, timeout=ANSWER_SECONDS)
    except httpx.ReadTimeout:
        raise UserError(
            f"the front door at {door.base_url} did not answer within {ANSWER_SECONDS:g} s; it may still be "
            "reading the shards: send the same request again, which starts no second run"
        ) from None
    except httpx.TransportError as error:
        raise UserError(
            f"no front door answers at {door.base_url} ({error}): start the service with `made up`, or set "
            "MADE_FRONT_DOOR"
        ) from None
    return _read(answer), answer.status_code == httpx.codes.CREATED


def follow(door: httpx.Client, run: TriggeredRun) -> Iterator[TriggeredRun]:
    """The run each time that its state or stage has changed, and its progress twice a minute, until it ends.

    Raises:
        NoAnswer: the front door did not answer for PATIENCE_SECONDS.
        UserError: it no longer accepts the token, or no longer knows the run.
    """
    patient = Retrying(
        retry=retry_if_exception_type((httpx.TransportError, NoAnswer)),
        stop=stop_after_delay(PATIENCE_SECONDS),
        wait=wait_exponential(max=30),
        reraise=True,
    )
    yield run
    page, told = f"/runs/{run.id}", time.monotonic()
    while not run.ended:
        time.sleep(POLL_SECONDS)
        try:
            latest = patient(lambda: _read(door.get(page)))
        except httpx.TransportError as error:
            raise NoAnswer(
                f"{door.base_url} does not answer ({error}); the run continues: {run.url}"
            ) from None
        # A live run that has lost its stages has ended in the ledger, and is about to end in Prefect.
        changed = _place(latest) != _place(run) and (latest.ended or bool(latest.stages or not run.stages))
        if changed or (latest != run and time.monotonic() - told > PROGRESS_SECONDS):
            run, told = latest, time.monotonic()
            yield run


def _place(run: TriggeredRun) -> tuple[str, str, str]:
    """How far a run is: its state and current stage."""
    return run.state, run.message, run.stages[-1].stage if run.stages else ""


def exit_code(run: TriggeredRun) -> int:
    """Of a run that has ended: 0 completed, 3 completed but some shards failed, 1 otherwise."""
    if run.type == COMPLETED:
        return DONE if run.clean else WITH_FAILURES
    return FAILED


def line(run: TriggeredRun) -> str:
    """The state of a run and the progress of its current stage, in one line."""
    if run.ended or not run.stages:
        at = run.state if run.type != CANCELLED else "Cancelled"
        return f"{at}: {run.message}" if run.message else at
    stage = run.stages[-1]
    parts = [f"{run.state}: {stage.stage} {stage.done:,} of {stage.units:,}"]
    parts += [f"{stage.failed:,} failed"] if stage.failed else []
    parts += [f"{stage.rate:,.0f} samples/s"] if stage.rate else []
    parts += [f"{timedelta(seconds=round(stage.eta))} left"] if stage.eta else []
    return ", ".join(parts)


@contextmanager
def door() -> Iterator[httpx.Client]:
    """A client of the front door with the trigger token.

    Raises:
        UserError: no token, no front door is known, or its URL is not valid.
    """
    headers, url = {"Authorization": f"Bearer {tokens.read()}"}, _url()
    try:
        client = httpx.Client(base_url=url, headers=headers, timeout=30)
    except httpx.InvalidURL as error:
        raise UserError(
            f"MADE_FRONT_DOOR={url}: {error}; expected a URL such as https://curate.example.org"
        ) from None
    with client:
        yield client


def _url() -> str:
    """MADE_FRONT_DOOR, or the front door of this machine's service."""
    if url := settings().front_door:
        return url
    config = state.config()
    if config is None:
        raise UserError("no service on this machine: start it with `made up`, or set MADE_FRONT_DOOR")
    return config.front_door_url


def _read(answer: httpx.Response) -> TriggeredRun:
    if answer.is_success:
        return TriggeredRun.model_validate_json(answer.content)
    try:
        text = str(answer.json()["detail"])
    except (ValueError, KeyError, TypeError):
        text = f"HTTP {answer.status_code}; is {answer.request.url.host} a front door of made?"
    if answer.status_code >= httpx.codes.INTERNAL_SERVER_ERROR:
        raise NoAnswer(text)
    raise UserError(text)


def _absolute(given: Recipe, at: Recipe) -> Recipe:
    """`given` with the paths of `at`; what is not given stays so, because a default may be another run's."""
    update: dict[str, Any] = {"sources": at.sources, "output": at.output}
    if given.store is not None:
        update["store"] = files.absolute(given.store)
    if given.extends is not None and files.is_local(given.extends) and files.exists(given.extends):
        update["extends"] = files.absolute(given.extends)  # an output, not an id
    if "encoder" in given.model_fields_set:
        changed = {n: getattr(at.encoder, n) for n in ("pretrained", "config") if getattr(given.encoder, n)}
        update["encoder"] = given.encoder.model_copy(update=changed)
    return given.model_copy(update=update)
