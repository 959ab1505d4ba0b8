"""The engine: submits the units of a stage as Prefect tasks on Ray until none is open.

The number of tasks in flight is bounded. The ledger decides what is done: if a task crashes, is lost or
ends early, its units are still open and are submitted again.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import ray
from prefect import Task
from prefect.context import FlowRunContext
from prefect_ray import RayTaskRunner
from prefect_ray.context import remote_options
from prefect_ray.task_runners import PrefectRayFuture
from ray.exceptions import RayError

from flows import placement
from flows.deadline import Pace
from flows.local_ray import arguments, private_token
from flows.losses import LOSSES, Losses
from flows.placement import ONE_CPU, Resources
from flows.plain_http import fast_clients
from flows.progress import Display, ended
from flows.task_settings import task_settings
from made_core.errors import MadeError, Permanent, TooManyFailures, WorkerLost
from made_core.io import files, stored
from made_core.ledger.ledger import Ledger
from made_core.ledger.records import Result
from made_core.settings import settings
from made_core.stages import CAPTIONS, EMBED, OutputT, Stage, UnitOutput
from made_core.types import UnitState
from tasks.run_units import RunContext

ResultT = TypeVar("ResultT")
TICK = 2.0  # seconds between two looks at the ledger while no task ends
SHARES = 4  # tasks into which a worker's share of thousands of units is divided, at least


def runner() -> RayTaskRunner[Any]:
    """Attaches to the cluster in MADE_RAY_ADDRESS (host:port), or starts Ray on this machine."""
    address = settings().ray_address
    if address:
        return RayTaskRunner(address=address, init_kwargs={"log_to_driver": False})
    private_token()
    return RayTaskRunner(init_kwargs=arguments())


@contextmanager
def own_sigterm() -> Iterator[None]:
    """Keeps the handler of SIGTERM while Ray starts, which takes it over: it would print a stack and exit."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


@contextmanager
def on_ray() -> Iterator[None]:
    """Starts Ray, or attaches to it. Tasks that a flow submits inside the context run there."""
    context = FlowRunContext.get()
    if context is None:
        raise RuntimeError("on_ray is for use in a flow")
    with ExitStack() as stack:
        with own_sigterm():  # Prefect's, which raises TerminationSignal
            started = stack.enter_context(runner())
        # Ray may have found a cluster to attach to, with workers elsewhere.
        same_host = {node.name for node in placement.nodes()} == {ray.util.get_node_ip_address()}
        if same_host:
            stack.enter_context(fast_clients())
        stack.enter_context(task_settings(same_host))
        stack.enter_context(context.model_copy(update={"task_runner": started}))
        try:
            yield
        except SystemError as error:  # what Ray makes of a handler's exception where it waits
            if error.__cause__ is None or isinstance(error.__cause__, Exception):
                raise
            raise error.__cause__ from None


def run_task(task: Task[..., ResultT], *args: object, resources: Resources = ONE_CPU) -> ResultT:
    """Runs a task that is not a unit of the ledger. Raises WorkerLost and the task's own errors."""
    calls = 1 if resources.gpus else 0  # of a process: used again, it would stay on this GPU (docs/adr/0014)
    try:
        with remote_options(num_cpus=resources.cpus, num_gpus=resources.gpus, max_calls=calls):
            result: ResultT = task.submit(*args).result()
    except RayError as error:  # after Ray's own retries
        raise WorkerLost(f"{task.name}: {error}") from error
    return result


def present(output: UnitOutput) -> bool:
    """Whether all files of a unit exist and have the recorded size."""
    try:
        return all(files.size(ref.path) == ref.size for ref in output.refs)
    except FileNotFoundError:
        return False


def batch_size(ready: int, slots: int, usual: int) -> int:
    """Units of the next task: few enough to use every worker, many enough to amortise loading a model.

    Where each worker has hundreds before it, Prefect's cost of a task counts: then a task gets a part of a
    worker's share, and the tasks get smaller towards the end.

    Args:
        ready: units that no task has.
        slots: tasks that run at once.
        usual: units per task at most, where workers have fewer before them.
    """
    most = max(usual, ready // (SHARES * slots))
    return max(1, min(most, -(-ready // (2 * slots))))


@dataclass
class Engine:
    """Runs the units of a run's stages on the cluster.

    Attributes:
        check: raises LeaseLost if another process has taken the run.
    """

    ledger: Ledger
    context: RunContext
    display: Display
    check: Callable[[], None] = lambda: None

    def __post_init__(self) -> None:
        self.pace = Pace(settings().stop_at, self.display.say)
        for line in placement.plan(placement.nodes(), self.context.recipe.work):
            self.display.say(line)

    def units(
        self,
        stage: Stage[OutputT],
        scope: str,
        keys: Sequence[str],
        submit: Callable[[list[str]], PrefectRayFuture],
        resources: Resources | None = None,
        expect: int | None = None,
        present: Callable[[UnitOutput], bool] = present,
        missing: Callable[[], None] = lambda: None,
        fail_fast: bool = False,
    ) -> dict[str, Result[OutputT]]:
        """Runs the open units among `keys` and returns the result of every unit by key.

        Args:
            submit: submits a Prefect task for a batch of keys.
            resources: of a task; default: work.cpus_per_task CPUs.
            expect: total number of samples, if known; for the ETA.
            present: whether the files of a done unit still exist; default: all, with the right size.
            missing: called if some files are missing.
            fail_fast: stop at the first unit that fails.

        Raises:
            TooManyFailures: `fail_fast` is set and a unit failed.
            LeaseLost: another process has taken the run.
            MadeError: tasks were lost too often in a row.
        """
        work, units = self.context.recipe.work, self.ledger.units
        units.put(self.context.run, stage, scope, keys, work.attempts)
        if again := units.allow(stage, scope, keys, work.attempts):
            self.display.say(f"{stage.name}: {again} units had used all attempts, trying again")
        known = [r for r in units.results(stage, scope, keys).values() if r.output is not None]
        with ThreadPoolExecutor(stored.STAT_THREADS) as pool:
            there = pool.map(lambda r: present(r.output), known)
            gone = [r.key for r, is_there in zip(known, there, strict=True) if not is_there]
        if gone:
            missing()
            self.display.say(f"{stage.name}: files of {len(gone)} units are missing, recomputing")
            units.forget(stage, scope, gone)
        resources = resources or Resources(work.cpus_per_task)
        with remote_options(
            num_cpus=resources.cpus, num_gpus=resources.gpus, max_calls=0, max_retries=0,
            scheduling_strategy="SPREAD",  # Ray's default fills half of a node before it uses the next
        ):  # fmt: skip
            self._drive(stage, scope, keys, submit, resources, expect, fail_fast)
        tally, stored_before = units.tally(stage, scope, keys), len(known) - len(gone)
        self.display.update(stage.name, tally, expect, done=True, stored=stored_before)
        results = units.results(stage, scope, keys)
        return {key: results[key] for key in keys}

    def every(
        self,
        stage: Stage[OutputT],
        scope: str,
        keys: Sequence[str],
        submit: Callable[[list[str]], PrefectRayFuture],
        resources: Resources | None = None,
        expect: int | None = None,
        present: Callable[[UnitOutput], bool] = present,
        missing: Callable[[], None] = lambda: None,
    ) -> dict[str, OutputT]:
        """The outputs of all units in the order of `keys`; see `units`.

        Raises:
            Permanent: a unit failed.
        """
        results = self.units(stage, scope, keys, submit, resources, expect, present, missing)
        outputs: dict[str, OutputT] = {}
        for key, result in results.items():
            if result.output is None:
                raise Permanent(
                    f"{stage.name} {key}: {result.error}; to try again: made retry {self.context.run}"
                )
            outputs[key] = result.output
        return outputs

    def one(
        self,
        stage: Stage[OutputT],
        scope: str,
        key: str,
        submit: Callable[[], PrefectRayFuture],
        resources: Resources | None = None,
    ) -> OutputT:
        """The output of a stage with a single unit. Raises Permanent if it failed."""
        return self.every(stage, scope, [key], lambda _: submit(), resources)[key]

    def _drive(
        self,
        stage: Stage[Any],
        scope: str,
        keys: Sequence[str],
        submit: Callable[[list[str]], PrefectRayFuture],
        resources: Resources,
        expect: int | None,
        fail_fast: bool,
    ) -> None:
        work = self.context.recipe.work
        usual = work.shards_per_task if stage in (EMBED, CAPTIONS) else 4
        flying: dict[PrefectRayFuture, list[str]] = {}
        losses, before = Losses(), -1
        while True:
            self.check()
            asked = time.monotonic()
            ready, wait = self.ledger.units.pending(stage, scope, keys)
            held = {k for batch in flying.values() for k in batch}
            waiting = set(ready) - held
            ready = [k for k in keys if k in waiting]  # so that a batch of shards is a range
            if not ready and wait is None and not flying:
                return
            slots = max(1, placement.workers(placement.nodes(), resources))
            while ready and len(flying) < work.tasks_in_flight and losses.quiet <= 0:
                size = batch_size(len(ready), slots, usual)
                batch, ready = ready[:size], ready[size:]
                flying[submit(batch)] = batch
            # A query over 100,000 units takes a while: spend at most a tenth of the time on queries.
            pause = max(TICK, 9 * (time.monotonic() - asked))
            for future in self._landed(list(flying), pause):
                del flying[future]
                error = _error_of(future)
                if error is not None:
                    losses.add()
                    self.display.say(f"{stage.name}: task lost: {error}")
            tally = self.ledger.units.tally(stage, scope, keys)
            self.display.update(stage.name, tally, expect)
            self.pace.update(stage.name, tally.samples, expect)
            if fail_fast and tally.units[UnitState.FAILED]:
                known = self.ledger.units.results(stage, scope, keys).values()
                error = next(r.error for r in known if r.state is UnitState.FAILED)
                raise TooManyFailures(f"work.fail_fast is set and a unit failed: {error}")
            if (now := ended(tally)) > before:
                before = now
                losses.end()
            if losses.row >= LOSSES:
                raise MadeError(
                    f"{stage.name}: tasks were lost {losses.row} times in a row, see the errors above; "
                    "re-run to resume"
                )

    def _landed(self, futures: list[PrefectRayFuture], pause: float) -> list[PrefectRayFuture]:
        """The futures that have ended; waits for the first one, at most `pause` seconds."""
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
