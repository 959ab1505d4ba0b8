"""The run of the ledger that this process holds: how it gets it, keeps it, and gives it back."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime, timezone
from threading import Event
from uuid import uuid4

from flows.flow_run import WAITING, FlowRun
from flows.holder import free_if_died, holder
from flows.periodic import every
from flows.watch import Watch
from made_core.errors import LeaseLost, MadeError, OutputHeld, Permanent, StorageFailed
from made_core.ledger.ledger import Ledger
from made_core.output.claim import check_claim, claim_output, give_back
from made_core.output.summary import Summary
from made_core.recipe import Recipe
from made_core.retries import retrying
from made_core.settings import settings
from made_core.types import RunState

logger = logging.getLogger("prefect.made")
WAIT = 2.0  # seconds between two tries to get an output
INTERRUPTED = "interrupted: re-run to resume"


@dataclass(frozen=True)
class Held:
    """A run that this process holds."""

    ledger: Ledger
    run: str
    recipe: Recipe
    _lost: Event = field(default_factory=Event)

    def still_ours(self) -> None:
        """Renews the lease. Raises LeaseLost if another process took the run, for example after a suspend."""
        if not self.ledger.runs.renew(self.run, holder(), self.recipe.work.lease_seconds):
            self._lost.set()
        self.check()

    def check(self) -> None:
        """Raises LeaseLost if the last renewal found that another process took the run."""
        if self._lost.is_set():
            raise LeaseLost(
                f"run {self.run} and its output {self.recipe.output} are no longer held by {holder()}"
            )

    def end(self, state: RunState, result: Summary | None, error: str | None) -> None:
        """Records how the run ended, and gives it and its units back. Raises LeaseLost."""
        document = None if result is None else result.document()
        self.ledger.runs.end(self.run, holder(), state, document, error)
        self.ledger.units.release(self.run)

    def give_back_if_unused(self) -> None:
        """Frees the output if the run has no units yet, so that it has written nothing. Raises LeaseLost."""
        self.still_ours()
        if not self.ledger.progress.of(self.run):
            give_back(self.recipe)


@contextmanager
def held(url: str, recipe: Recipe, replace: bool, flow_run: FlowRun, watch: Watch) -> Iterator[Held]:
    """Begins or resumes the run of a recipe, and holds it inside the context.

    If another process is writing the output, a deployment's flow run waits until that has ended. A mistake
    that only a worker sees, such as a missing GPU, gives the output back for the corrected recipe.

    Raises:
        OutputHeld: another process is writing the output, and this flow run is not a deployment's.
        OutputError: the output belongs to a run of another recipe.
    """
    ledger = Ledger.open(url, keep=True)
    try:
        ours = Held(ledger, _begun(ledger, recipe, replace, flow_run), recipe)
        claimed = False  # by this process; a resumed run keeps its output
        with every(recipe.work.lease_seconds / 3, ours.still_ours):
            try:
                claimed = retrying(recipe.work.attempts)(_claim, ours, replace)
                flow_run.belongs_to(ours.run)
                yield ours
            except BaseException as error:
                state, text = _stopped(error, watch)
                logger.debug("run %s: %s", ours.run, text, exc_info=True)
                with suppress(LeaseLost):  # another process holds the run and records how it ends
                    if claimed and isinstance(error, Permanent):
                        with suppress(StorageFailed):  # then --replace is needed
                            ours.give_back_if_unused()
                    ours.end(state, None, text)
                raise
    finally:
        ledger.close()


def _begun(ledger: Ledger, recipe: Recipe, replace: bool, flow_run: FlowRun) -> str:
    new = f"{datetime.now(timezone.utc):%Y%m%d-%H%M%S}-{uuid4().hex[:4]}"
    while True:
        try:
            run = ledger.runs.begin(
                new, recipe.recipe_digest, recipe.model_dump(mode="json"), recipe.output, recipe.store_url,
                holder(), recipe.work.lease_seconds, replace,
            )  # fmt: skip
        except OutputHeld:
            if not freed(ledger, recipe.output, flow_run):
                raise
        else:
            flow_run.running(f"run {run}")
            return run


def _claim(ours: Held, replace: bool) -> bool:
    """`claim_output`; raises OutputHeld if a live run writes this folder under another name, as by a link."""
    known = check_claim(ours.recipe, replace, settings().log_folder)
    other = ours.ledger.runs.get(known.run) if known is not None and known.run != ours.run else None
    if other is not None and other.held:
        raise OutputHeld(
            f"{ours.recipe.output} is the folder {other.output}, which is being written by run {other.id}, "
            f"held by {other.holder}; wait for it or name another output"
        )
    return claim_output(ours.recipe, ours.run, replace, settings().log_folder)


def freed(ledger: Ledger, output: str, flow_run: FlowRun) -> bool:
    """Waits until no process writes an output, if a deployment asks for it; else whether none does."""
    waiting = False
    while (owner := ledger.runs.of_output(output)) is not None and owner.held:
        if owner.holder == holder() or free_if_died(ledger, owner):
            return True
        if not flow_run.deployed:
            return False
        if not waiting:
            waiting = True
            text = f"{output} is being written by run {owner.id}, held by {owner.holder}: waiting for its end"
            logger.info("%s", text)
            flow_run.running(text, WAITING)
        time.sleep(WAIT)
    return True


def _stopped(error: BaseException, watch: Watch) -> tuple[RunState, str]:
    """State and error of a run that an exception ends."""
    if isinstance(error, MadeError):
        return RunState.FAILED, str(error)
    asked = watch.asked()  # whatever the error is: a library may have wrapped the exception of the signal
    if asked is not None:
        return RunState.CANCELLED, f"{str(asked.name).lower()} in Prefect: re-run or retry to resume"
    if isinstance(error, Exception):
        return RunState.FAILED, repr(error)
    return RunState.CANCELLED, INTERRUPTED  # Ctrl-C, or SIGTERM from `made down` or a batch system
