"""What every task does: claim the units of its batch, hold their leases, record the results."""

from __future__ import annotations

import logging
import os
import resource
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from prefect.logging import get_run_logger
from prefect.logging.handlers import APILogHandler

from made_core.errors import LeaseLost
from made_core.ledger import cleanup
from made_core.ledger.ledger import Ledger
from made_core.recipe import Recipe
from made_core.retries import backoff
from made_core.settings import settings
from made_core.stages import CAPTIONS, EMBED, FIT, OutputT, Stage
from made_core.types import Encoding, Unit, UnitState
from tasks.health import HEALTH
from tasks.log_files import open_log

log = logging.getLogger(__name__)
MANY = 100  # shards
CLAIMABLE = 32  # keys of a batch that one claim looks at: its cost grows with them
SHORT = 0.5  # seconds that a worker keeps its connection to the ledger during a unit


@dataclass(frozen=True)
class RunContext:
    """What every task of a run needs."""

    run: str
    database_url: str
    recipe: Recipe  # absolute sources, output and store; resolved encoder
    encoding: Encoding
    log_folder: str | None = None
    shards: int = 0  # of the run: of many, the lines of single units are logged at DEBUG

    @property
    def bound(self) -> float:
        """Stored pairs have a similarity above this: 1 - eps_max."""
        eps_max = self.recipe.dedup.eps_max
        return 1 - (max(2 * self.encoding.default_eps, self.encoding.eps) if eps_max is None else eps_max)

    @property
    def probes_eps(self) -> float:
        """The eps at which `probes: auto` measures the recall; eps up to eps_max does not change it."""
        return max(self.encoding.default_eps, (1 - self.bound) / 2)


def named(stage: str) -> Callable[..., str]:
    """The name of a task run: the stage, and the first and last of its shards or units."""

    def name(parameters: dict[str, Any]) -> str:
        if "shards" in parameters:
            first, last = parameters["shards"][0].id, parameters["shards"][-1].id
        elif "parts" in parameters:
            first, last = parameters["parts"][0].shard.id, parameters["parts"][-1].shard.id
        else:  # a key may be a range itself
            keys = parameters["keys"]
            if len(keys) == 1:
                return f"{stage} {keys[0]}"
            first, last = keys[0].partition("-")[0], keys[-1].rpartition("-")[2]
        return f"{stage} {first}" if first == last else f"{stage} {first}-{last}"

    return name


Progress = Callable[[int], None]  # samples done so far; raises LeaseLost if another process has the unit


def run_units(
    context: RunContext,
    stage: Stage[OutputT],
    scope: str,
    keys: Sequence[str] | Mapping[str, str],
    do: Callable[[Unit, Progress], OutputT],
) -> None:
    """Runs the units among `keys` that can be claimed, one at a time.

    An error fails the unit, not the task: the ledger records it and decides on a retry. A process in which
    one unit after the other fails leaves the rest to others, see tasks.health.

    Args:
        keys: of the units; a mapping gives each the name that logs have.
    """
    names = keys if isinstance(keys, Mapping) else {key: key for key in keys}
    level = logging.DEBUG if context.shards > MANY else logging.INFO
    open_log(context.log_folder)
    _clean_scratch()
    _open_files()
    logger = get_run_logger()
    ledger = Ledger(context.database_url, keep=True)
    seconds = context.recipe.work.lease_seconds
    if gpu := _gpu(context, stage):
        logger.info("%s: GPU %s", stage.name, gpu)
    HEALTH.recover(logger)
    try:
        for unit in _claimed(ledger, context, stage, scope, list(names)):
            name = names[unit.key]
            logger.log(level, "%s %s: attempt %d", stage.name, name, unit.attempt)
            try:
                with Lease(ledger, unit, seconds) as lease:
                    output = do(unit, lease.progress)
                ledger.units.finish(unit, output)
                HEALTH.ended(unit.key, None)
                logger.log(level, "%s %s: done, %d samples", stage.name, name, output.samples)
            except LeaseLost as error:
                logger.warning("%s %s: %s", stage.name, name, error.head)
            except Exception as error:
                state = ledger.units.fail(unit, error, backoff(unit.attempt))
                HEALTH.ended(unit.key, error)
                ends = "failed" if state is UnitState.FAILED else "failed, will be retried"
                logger.error("%s %s: %s: %s", stage.name, name, ends, error)
                logger.debug("%s", traceback.format_exc())
            if HEALTH.sick:
                break
    finally:
        ledger.close()
        APILogHandler().flush()  # Prefect loses a Ray worker's last lines otherwise
    if HEALTH.sick and gpu:
        # An error of CUDA stays until the process ends. Ray starts another one.
        raise SystemExit(f"{stage.name}: one unit after the other fails in a process with a GPU: it ends")


def _gpu(context: RunContext, stage: Stage[Any]) -> str | None:
    """What Ray named for a task that reserves a GPU. Of others, the variable may be their node's."""
    reserved = stage in (EMBED, CAPTIONS, FIT) and context.recipe.work.gpus_per_task not in ("auto", 0)
    return os.environ.get("CUDA_VISIBLE_DEVICES") if reserved else None


def _claimed(
    ledger: Ledger, context: RunContext, stage: Stage[Any], scope: str, keys: list[str]
) -> Iterator[Unit]:
    """Claims a unit, then the next one when it is asked for, until none can be claimed."""
    host = f"{settings().host}:{os.getpid()}"
    seconds = context.recipe.work.lease_seconds
    for first in range(0, len(keys), CLAIMABLE):
        some = keys[first : first + CLAIMABLE]
        while units := ledger.units.claim(stage, scope, some, 1, seconds, host, context.run):
            yield units[0]


@cache
def _clean_scratch() -> None:
    """Removes, once per process, scratch files of workers that died on this machine."""
    cleanup.clean_scratch()


@cache
def _open_files() -> None:
    """Raises, once per process, the limit of open files: cluster rows are in two files per batch."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


class Lease:
    """Renews a unit's lease from a thread while the unit is running.

    After a moment the ledger's connection is closed between calls, so that more workers than the database
    has connections can share them.
    """

    def __init__(self, ledger: Ledger, unit: Unit, seconds: float) -> None:
        self._ledger, self._unit, self._seconds = ledger, unit, seconds
        self._samples = 0
        self._lost = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._renew, daemon=True)

    def __enter__(self) -> Lease:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def progress(self, samples: int) -> None:
        """Records the samples done. Raises LeaseLost if another process has the unit."""
        self._samples = samples
        if self._lost.is_set():
            raise LeaseLost(f"{self._unit.stage} {self._unit.key}")

    def _renew(self) -> None:
        if self._stop.wait(min(self._seconds / 3, SHORT)):
            return
        self._ledger.rest()
        # Often enough for a live progress bar, and at least three times per lease.
        while not self._stop.wait(min(self._seconds / 3, 5.0)):
            try:
                held = self._ledger.units.renew([self._unit], self._seconds, [self._samples])
            except Exception:  # of the database: keep working and keep renewing
                log.warning(
                    "%s %s: lease not renewed, retrying", self._unit.stage, self._unit.key, exc_info=True
                )
                continue
            self._ledger.rest()
            if not held:
                self._lost.set()
                return
