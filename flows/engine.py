"""The engine: units of a stage become Prefect tasks on Ray, in a bounded window, until none is open.

The ledger decides what is done; a task that crashed, was lost or ended early only means that its
units are still open, and are handed out again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import ray
from prefect import Task
from prefect_ray import RayTaskRunner
from prefect_ray.context import remote_options
from prefect_ray.task_runners import PrefectRayFuture
from ray.exceptions import RayError

from flows.progress import Display, ended
from made_core.errors import MadeError, Permanent, TooManyFailures, WorkerLost
from made_core.io import files
from made_core.ledger.ledger import Ledger
from made_core.ledger.records import Result
from made_core.settings import settings
from made_core.stages import EMBED, OutputT, Stage, UnitOutput
from made_core.types import UnitState
from tasks.run_units import RunContext

ResultT = TypeVar("ResultT")
TICK = 0.25  # seconds between two looks at the tasks
LOOKERS = 16  # threads that look whether files are there: the wait is for storage
CRASHES = 8  # tasks in a row that end with an error of their own before the run gives up


def runner() -> RayTaskRunner[Any]:
    """Attaches to the cluster in MADE_RAY_ADDRESS (host:port), or starts Ray on this machine."""
    address = settings().ray_address
    if address:
        return RayTaskRunner(address=address, init_kwargs={"log_to_driver": False})
    return RayTaskRunner(
        init_kwargs={"include_dashboard": False, "log_to_driver": False, "logging_level": "ERROR"}
    )


def run_task(task: Task[..., ResultT], *args: object) -> ResultT:
    """What a task returns that is no unit of the ledger. Raises WorkerLost, and what it raises."""
    try:
        result: ResultT = task.submit(*args).result()
    except RayError as error:  # Ray has tried it again, and lost that worker too
        raise WorkerLost(f"{task.name}: {error}") from error
    return result


def present(output: UnitOutput) -> bool:
    """Whether a unit's files are there, in their size."""
    try:
        return all(files.size(ref.path) == ref.size for ref in output.refs)
    except FileNotFoundError:
        return False


@dataclass
class Engine:
    """Hands the units of a run's stages to the cluster."""

    ledger: Ledger
    context: RunContext
    display: Display

    def units(
        self,
        stage: Stage[OutputT],
        scope: str,
        keys: Sequence[str],
        submit: Callable[[list[str]], PrefectRayFuture],
        gpus: float = 0,
        expect: int | None = None,
        present: Callable[[UnitOutput], bool] = present,
        missing: Callable[[], None] = lambda: None,
        fail_fast: bool = False,
    ) -> dict[str, Result[OutputT]]:
        """Does what is open among `keys` and returns every unit's result, by key.

        Args:
            submit: hands a batch of keys to a Prefect task.
            expect: samples that all of them will come to, where that is known: for the ETA.
            present: whether a done unit's files are still there; default: all of them, in size.
            missing: called where some are not.
            fail_fast: stop at the first unit that fails.

        Raises:
            TooManyFailures: with `fail_fast`, one failed.
            MadeError: tasks crash before they reach a unit.
        """
        work, units = self.context.recipe.work, self.ledger.units
        units.put(self.context.run, stage, scope, keys, work.attempts)
        known = [r for r in units.results(stage, scope, keys).values() if r.output is not None]
        with ThreadPoolExecutor(LOOKERS) as pool:
            there = pool.map(lambda r: present(r.output), known)
            gone = [r.key for r, is_there in zip(known, there, strict=True) if not is_there]
        if gone:
            missing()
            self.display.say(f"{stage.name}: files of {len(gone)} units are missing, recomputing")
            units.forget(stage, scope, gone)
        with remote_options(num_cpus=work.cpus_per_task, num_gpus=gpus, max_calls=0, max_retries=0):
            self._drive(stage, scope, keys, submit, expect, fail_fast)
        self.display.update(stage.name, units.tally(stage, scope, keys), expect, done=True)
        results = units.results(stage, scope, keys)
        return {key: results[key] for key in keys}

    def every(
        self,
        stage: Stage[OutputT],
        scope: str,
        keys: Sequence[str],
        submit: Callable[[list[str]], PrefectRayFuture],
        expect: int | None = None,
        present: Callable[[UnitOutput], bool] = present,
        missing: Callable[[], None] = lambda: None,
    ) -> dict[str, OutputT]:
        """The outputs of all units, in the order of their keys; see `units`.

        Raises:
            Permanent: one failed.
        """
        results = self.units(stage, scope, keys, submit, expect=expect, present=present, missing=missing)
        outputs: dict[str, OutputT] = {}
        for key, result in results.items():
            if result.output is None:
                raise Permanent(f"{stage.name} {key}: {result.error}")
            outputs[key] = result.output
        return outputs

    def one(
        self, stage: Stage[OutputT], scope: str, key: str, submit: Callable[[], PrefectRayFuture]
    ) -> OutputT:
        """The output of a stage of one unit. Raises Permanent: it failed."""
        return self.every(stage, scope, [key], lambda _: submit())[key]

    def _drive(
        self,
        stage: Stage[Any],
        scope: str,
        keys: Sequence[str],
        submit: Callable[[list[str]], PrefectRayFuture],
        expect: int | None,
        fail_fast: bool,
    ) -> None:
        flying: dict[PrefectRayFuture, list[str]] = {}
        crashes, before = 0, -1
        while True:
            asked = time.monotonic()
            ready, wait = self.ledger.units.pending(stage, scope, keys)
            held = {k for batch in flying.values() for k in batch}
            ready = [k for k in ready if k not in held]
            if not ready and wait is None and not flying:
                return
            size = self._batch_size(stage, len(ready))
            while ready and len(flying) < self.context.recipe.work.tasks_in_flight:
                batch, ready = ready[:size], ready[size:]
                flying[submit(batch)] = batch
            # A question about 100,000 units takes a while: ask for a tenth of the time at most.
            pause = max(TICK, 9 * (time.monotonic() - asked))
            for future in self._landed(list(flying), pause):
                del flying[future]
                error = _error_of(future)
                if error is not None:
                    crashes += 1
                    self.display.say(f"{stage.name}: a task was lost: {error}")
            tally = self.ledger.units.tally(stage, scope, keys)
            self.display.update(stage.name, tally, expect)
            if fail_fast and tally.units[UnitState.FAILED]:
                known = self.ledger.units.results(stage, scope, keys).values()
                error = next(r.error for r in known if r.state is UnitState.FAILED)
                raise TooManyFailures(f"work.fail_fast, and one failed: {error}")
            if (now := ended(tally)) > before:
                crashes, before = 0, now
            if crashes >= CRASHES:
                raise MadeError(f"{stage.name}: {crashes} tasks in a row were lost, see above")

    def _batch_size(self, stage: Stage[Any], ready: int) -> int:
        """Units a task: few enough that every worker has some, many enough to amortise a model."""
        slots = max(1, int(ray.cluster_resources().get("CPU", 1) / self.context.recipe.work.cpus_per_task))
        most = self.context.recipe.work.shards_per_task if stage is EMBED else 4
        return max(1, min(most, -(-ready // (2 * slots))))

    def _landed(self, futures: list[PrefectRayFuture], pause: float) -> list[PrefectRayFuture]:
        """Those that have ended: as soon as one has, after `pause` seconds at most."""
        if not futures:
            time.sleep(pause)
            return []
        by_ref = {f.wrapped_future: f for f in futures}
        ray.wait(list(by_ref), num_returns=1, timeout=pause)
        landed, _ = ray.wait(list(by_ref), num_returns=len(by_ref), timeout=0)
        return [by_ref[ref] for ref in landed]


def _error_of(future: PrefectRayFuture) -> str | None:
    future.wait()
    state = future.state
    if state.is_completed():
        return None
    lines = (state.message or state.name).strip().splitlines()
    return str(lines[-1] if lines else state.name)
