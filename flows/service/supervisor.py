"""The supervisor: starts the service's programs in order, restarts what dies, ends all of them on SIGTERM.

`made up` starts it, detached: `python -m flows.service.supervisor`.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx

from flows.service import logs, processes, state
from flows.service.processes import FLOW_RUN, Identity
from flows.service.programs import POSTGRES, WORKER, Program, programs
from flows.service.state import Child, Config, Phase, Processes
from made_core.errors import DatabaseError, MadeError
from made_core.ledger import postgres, postgres_tcp
from made_core.ledger.postgres_tcp import Listen
from made_core.settings import settings

log = logging.getLogger("made.supervisor")

TICK_SECONDS = 0.3
LONGEST_PAUSE = 60.0  # seconds before a program that ends again and again is started again
STABLE_SECONDS = 60.0  # after so long, an end counts as the first again
LOG_SECONDS = 30.0  # between two looks at the sizes of the logs
RUN_SECONDS = 60.0  # for a run to record that it was ended
LEFT_SECONDS = 15.0  # for what it leaves, such as Ray's processes


class Supervisor:
    """Runs the programs of a configuration. One thread; see `run`."""

    def __init__(self, config: Config, before: Processes | None) -> None:
        """Args: before: what an earlier supervisor recorded. Its programs that still run are adopted."""
        self._config = config
        self._programs = programs(config)
        self._stop, self._now = threading.Event(), threading.Event()
        self._spawned: dict[str, subprocess.Popen[bytes]] = {}
        self._since: dict[str, float] = {}  # when the process was started, or has been adopted
        self._again: dict[str, float] = {}  # when a program is to be started again
        self._logs_due = 0.0
        self._quick: dict[str, int] = {}  # how often in a row it has ended within STABLE_SECONDS
        me = processes.identify(os.getpid())
        assert me is not None
        self._record = Processes(supervisor=me, host=socket.gethostname())
        if config.has_postgres:
            self._record.children.append(Child(name=POSTGRES, phase=Phase.STARTING))
        known = {child.name: child for child in before.children} if before else {}
        for program in self._programs:
            child = self._adopted(program, known.pop(program.name, None))
            self._record.children.append(child)
        for child in known.values():
            if child.process is not None and child.name != POSTGRES and child.process.is_alive:
                log.info("ending %s, process %d, of an earlier start", child.name, child.process.pid)
                processes.end(child.process, LEFT_SECONDS)
        self._save()

    def run(self) -> None:
        """Supervises until SIGTERM or SIGINT. SIGHUP starts programs that are waiting at once."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self._stop.set())
        signal.signal(signal.SIGHUP, lambda *_: self._now.set())
        try:
            with self._postgres():
                try:
                    while not self._stop.is_set():
                        try:
                            self._step()
                        except Exception:  # a full disk, for example, must not end the service
                            log.exception("trying again")
                        self._stop.wait(TICK_SECONDS)
                finally:
                    self._end()  # while they still have their database
        except DatabaseError:  # PostgreSQL did not start
            self._end()
            raise

    @contextmanager
    def _postgres(self) -> Iterator[None]:
        config = self._config
        if not config.has_postgres:
            yield
            return
        home = settings().home_path
        with postgres.embedded(home, Listen(config.listen, config.ports.postgres)) as url:
            postgres_tcp.set_password(url, config.postgres_password)
            if config.has_server:
                postgres_tcp.create_database(url, state.PREFECT_DATABASE)
            yield

    def _step(self) -> None:
        if self._now.is_set():
            self._now.clear()
            self._again.clear()
        before = self._record.model_dump_json()
        if time.monotonic() >= self._logs_due:
            self._logs_due = time.monotonic() + LOG_SECONDS
            logs.rotate_all(["supervisor", *(child.name for child in self._record.children)])
        if self._config.has_postgres:
            self._look_at_postgres(self._child(POSTGRES))
        in_order = True  # whether all earlier programs do their work
        for program in self._programs:
            child = self._child(program.name)
            self._look_at(program, child)
            is_due = time.monotonic() >= self._again.get(program.name, 0.0)
            if child.process is None and child.phase is not Phase.DONE and in_order and is_due:
                self._start(program, child)
            in_order = in_order and child.phase in (Phase.READY, Phase.DONE)
        if self._record.model_dump_json() != before:
            self._save()

    def _look_at_postgres(self, child: Child) -> None:
        pid = postgres.server(settings().home_path)
        found = None if pid is None else processes.identify(pid)
        if found is not None and child.process is not None and found != child.process:
            child.restarts += 1
        child.phase = Phase.WAITING if found is None else Phase.READY
        child.process = found or child.process

    def _look_at(self, program: Program, child: Child) -> None:
        """Updates what is known of a program."""
        if child.process is None:
            return
        spawned = self._spawned.get(program.name)
        # Not by its state alone: a process with threads is a zombie for a while before it has a code.
        code = None if spawned is None else spawned.poll()
        if code is not None or (spawned is None and not child.process.is_alive):
            self._ended(program, child, code)
        elif child.phase is Phase.STARTING:
            try:
                if program.ready(self._since[program.name]):
                    child.phase, child.message = Phase.READY, ""
                    log.info("%s is ready", program.name)
            except (httpx.HTTPError, OSError):
                return  # not yet

    def _ended(self, program: Program, child: Child, code: int | None) -> None:
        lived = time.time() - self._since[program.name]
        child.process = None
        self._spawned.pop(program.name, None)
        if program.once and code == 0:
            child.phase, child.message = Phase.DONE, ""
            log.info("%s is done", program.name)
            return
        how = "ended" if code is None else _how(code)
        child.phase, child.restarts, child.message = Phase.WAITING, child.restarts + 1, how
        quick = 1 if lived > STABLE_SECONDS else self._quick.get(program.name, 0) + 1
        self._quick[program.name] = quick
        pause = min(LONGEST_PAUSE, 2.0 ** min(quick - 1, 10))
        self._again[program.name] = time.monotonic() + pause
        log.warning("%s %s after %.0f s; starting it again in %.0f s", program.name, how, lived, pause)

    def _start(self, program: Program, child: Child) -> None:
        path = state.log_path(program.name)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with path.open("ab") as output:
            spawned = subprocess.Popen(
                program.command, env=program.environment(), cwd=state.folder(), stdin=subprocess.DEVNULL,
                stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        self._since[program.name] = time.time()
        self._spawned[program.name] = spawned
        child.process, child.program = processes.identify(spawned.pid), program.digest
        child.phase = Phase.STARTING
        log.info("started %s, process %d", program.name, spawned.pid)
        self._save()  # at once: if this process is killed, the next one has to find it

    def _adopted(self, program: Program, known: Child | None) -> Child:
        """A program that an earlier supervisor started, or one that is to be started."""
        if known is None or known.process is None or not known.process.is_alive:
            return Child(name=program.name, phase=Phase.STARTING)
        if known.program != program.digest or program.once:
            log.info("ending %s, process %d, of an earlier start", program.name, known.process.pid)
            processes.end(known.process, program.stop_seconds)
            return Child(name=program.name, phase=Phase.STARTING)
        log.info("adopting %s, process %d", program.name, known.process.pid)
        self._since[program.name] = 0.0
        return known.model_copy(update={"phase": Phase.STARTING})

    def _end(self) -> None:
        """Ends the runs, which need all the others, then the programs in reverse order."""
        end_runs(self._config.id, next((c.process for c in self._record.children if c.name == WORKER), None))
        for program in reversed(self._programs):
            child = self._child(program.name)
            if child.process is not None:
                by_itself = processes.end(child.process, program.stop_seconds)
                log.info("%s %s", program.name, "ended" if by_itself else "was killed")

    def _child(self, name: str) -> Child:
        return next(child for child in self._record.children if child.name == name)

    def _save(self) -> None:
        state.save_processes(self._record)


def end_runs(mark: str, worker: Identity | None) -> None:
    """Ends the flow runs, which record that, and then what they left. Stops the worker, to be ended next.

    A worker that ends kills its runs before they have recorded anything; one at work would start others.

    Args: mark: the service's id, in the environment of its processes.
    """
    if worker is not None:
        worker.signal(signal.SIGSTOP)
    flows = processes.runs(mark)
    for run, process in flows.items():
        log.info("ending flow run %s, process %d", run, process.pid)
    processes.end_all(list(flows.values()), RUN_SECONDS)
    left = [process for process, variables in processes.marked(mark) if FLOW_RUN in variables]
    if left:
        log.info("ending processes that runs left: %s", ", ".join(str(p.pid) for p in left))
    processes.end_all(left, LEFT_SECONDS)


def _how(code: int) -> str:
    if code >= 0:
        return f"exited with code {code}"
    return f"was ended by {signal.Signals(-code).name}"


def main() -> None:
    """Supervises the service of MADE_HOME. Exits 0 at once if it is supervised already."""
    logging.basicConfig(format="%(asctime)s %(message)s", level=logging.INFO, stream=sys.stdout)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    with state.supervising() as is_mine:
        if not is_mine:
            return
        config = state.config()
        if config is None:
            sys.exit("made: the service has no configuration: run `made up`")
        if (elsewhere := state.elsewhere()) is not None:
            sys.exit(f"made: {elsewhere}")  # before the record is replaced
        try:
            Supervisor(config, state.processes()).run()
        except MadeError as error:
            state.forget_processes()
            sys.exit(f"made: {error}")
        state.forget_processes()


if __name__ == "__main__":
    main()
