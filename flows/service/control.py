"""Starting and ending the service, and what it says of itself: `made up`, `made down`, `made ps`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from flows.service import ports, processes, state
from flows.service.programs import POSTGRES, WORKER
from flows.service.state import LOOPBACK, Config, Given, Phase, Processes
from flows.service.supervisor import LEFT_SECONDS, end_runs
from made_core.errors import MadeError, UserError
from made_core.ledger import postgres
from made_core.settings import settings

START_SECONDS = 600.0  # the first start creates Prefect's tables, on a busy machine for minutes
DOWN_SECONDS = 300.0
ATTEMPTS = 3  # of a program, before `up` gives up on it
POLL_SECONDS = 0.2
LOG_LINES = 12

Say = Callable[[str], None]


class NotStarted(MadeError):
    """A process of the service does not start."""


def up(listen: str | None, runs: int | None, worker: bool | None, say: Say) -> Config:
    """Starts the service, or what is missing of it, and waits until all of it does its work.

    Args:
        listen, runs, worker: None: as at the last start; at the first, loopback, one run at once, a worker.
        say: is told what is happening, a line each.

    Raises:
        UserError: the service is up with other settings, runs on another host, or cannot listen there.
        DatabaseError: the ledger in MADE_DATABASE_URL cannot be reached, or a newer version of made made it.
        NotStarted: a process does not start; the message has the end of its log.
    """
    with state.locked("up"):  # a second one waits for the first
        return _up(listen, runs, worker, say)


def _up(listen: str | None, runs: int | None, worker: bool | None, say: Say) -> Config:
    state.check_here()
    known = state.config()
    if known is not None and state.is_up():
        _refuse_changes(known, listen, runs, worker)
        say("The service is up already.")
        found = state.processes()
        if found is not None:
            found.supervisor.signal(signal.SIGHUP)  # start what is waiting now
        _wait(known, None, say)
        return known
    config = _configured(known, listen, runs, worker, say)
    is_own = config.given.database_url is None
    if not is_own:
        _upgrade_ledger(config)  # before anything starts: the URL may be wrong
    state.save_config(config)
    supervisor = _spawn()
    _wait(config, supervisor, say)
    if is_own:
        _upgrade_ledger(config)
    return config


def _upgrade_ledger(config: Config) -> None:
    from made_core.ledger.ledger import Ledger  # here: SQLAlchemy, which other commands do not need

    Ledger.open(config.database_url).close()


def down(say: Say) -> bool:
    """Ends the service. Returns whether anything was running.

    Raises:
        UserError: it runs on another host; or its configuration is damaged: then it has ended all the same.
    """
    state.check_here()
    found = state.processes()
    try:
        config = state.config()
    except UserError:
        # It has read the configuration, and ends the rest.
        if found is not None and found.supervisor.is_alive:
            _end_supervisor(found.supervisor)
            say(f"ended: supervisor, process {found.supervisor.pid}")
        raise
    if config is None:
        return False
    running = _listed(config, found)
    if not running:
        state.forget_processes()
        return False
    if found is not None and found.supervisor.is_alive:
        if processes.runs(config.id):
            say("ending the runs in progress, which resume when they are started again with the same recipe")
        _end_supervisor(found.supervisor)
    # What a killed supervisor left. Nothing, after one that ended by itself.
    children = list(reversed(found.children)) if found else []
    end_runs(config.id, next((c.process for c in children if c.name == WORKER), None))
    for child in children:
        if child.name != POSTGRES and child.process is not None:
            processes.end(child.process, LEFT_SECONDS)
    processes.end_all([process for process, _ in processes.marked(config.id)], LEFT_SECONDS)
    if config.has_postgres:
        with postgres.embedded(settings().home_path):
            pass  # the last to leave ends the server
    state.forget_processes()
    for name, process in running:
        if not process.is_alive:
            say(f"ended: {name}, process {process.pid}")
        elif name == POSTGRES:
            say(f"still running: {name}, process {process.pid}, until the made command that uses it ends")
        else:
            say(f"still running: {name}, process {process.pid}")
    return True


def _end_supervisor(supervisor: processes.Identity) -> None:
    """Ends the supervisor, which ends its programs. Raises NotStarted if it takes too long."""
    supervisor.signal(signal.SIGTERM)
    if not processes.wait(supervisor, DOWN_SECONDS):
        raise NotStarted(
            f"the supervisor, process {supervisor.pid}, has not ended in {DOWN_SECONDS:g} s: "
            f"see {state.log_path('supervisor')}"
        )


def required() -> Config:
    """The configuration of the running service. Raises UserError if it is not up here."""
    state.check_here()
    config = state.running()
    if config is None:
        raise UserError(
            f"no service of {settings().home_path} is up on this machine: start it with `made up`"
        )
    return config


def _refuse_changes(known: Config, listen: str | None, runs: int | None, worker: bool | None) -> None:
    asked: dict[str, tuple[str | int | None, str | int]] = {
        "--listen": (listen, known.listen),
        "--runs": (runs, known.runs),
        "--worker": (worker, known.worker),
    }
    for name, (new, old) in asked.items():
        if new is not None and new != old:
            is_up, wanted = _option(name, old), _option(name, new)
            raise UserError(f"the service is up with {is_up}: `made down`, then `made up {wanted}`")
    given = _given(known)
    if given != known.given and given != Given():
        raise UserError(
            "the service is up with other servers than MADE_DATABASE_URL and PREFECT_API_URL name: "
            "unset them, or `made down` first"
        )


def _option(name: str, value: str | int) -> str:
    """An option as it is typed."""
    if isinstance(value, bool):
        return name if value else name.replace("--", "--no-")
    return f"{name} {value}"


def _configured(
    known: Config | None, listen: str | None, runs: int | None, worker: bool | None, say: Say
) -> Config:
    address = listen or (known.listen if known else LOOPBACK)
    # A service with a MADE_HOME of its own may start beside the one in ~/.made, even at the same moment.
    usual = "home" not in settings().model_fields_set
    door = settings().front_door_host or LOOPBACK
    config = known or Config(ports=ports.choose(address, usual, door))
    config = config.model_copy(
        update={
            "listen": address,
            "front_door_host": door,
            "runs": config.runs if runs is None else runs,
            "worker": config.worker if worker is None else worker,
            "given": _given(known),
        }
    )
    taken = [] if known is None else _taken(config)
    if taken:
        before, fresh = config.ports, ports.choose(address, door=door)
        config.ports = before.model_copy(update={name: getattr(fresh, name) for name in taken})
        for name in taken:
            say(f"Port {getattr(before, name)} of {name} is taken by another program; "
                f"now {getattr(config.ports, name)}. Open shells need `made env` again.")  # fmt: skip
    return config


def _taken(config: Config) -> list[str]:
    """The ports of the configuration that processes of others have."""
    found = state.processes()
    alive = {c.name for c in found.children if c.process and c.process.is_alive} if found else set()
    ours = {
        "postgres": postgres.server(settings().home_path) is not None,
        "prefect": "prefect" in alive,
        "front_door": "front-door" in alive,
    }
    at = {"front_door": config.front_door_host}  # the others where the service listens
    return [
        name for name, is_ours in ours.items()
        if not is_ours and not ports.is_free(at.get(name, config.listen), getattr(config.ports, name))
    ]  # fmt: skip


def _given(known: Config | None) -> Given:
    """The servers named in the environment, unless they are the service's own (`made env`)."""
    database, api = settings().database_url, os.environ.get("PREFECT_API_URL") or None
    if known is not None:
        own = known.model_copy(update={"given": Given()})
        database = None if database == own.database_url else database
        api = None if api == own.prefect_api_url else api
    return Given(database_url=database, prefect_api_url=api)


def _spawn() -> subprocess.Popen[bytes]:
    path = state.log_path("supervisor")
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with path.open("ab") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "flows.service.supervisor"],
            cwd=state.folder(), stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
            env={**os.environ, "MADE_HOME": str(settings().home_path)}, start_new_session=True,
        )  # fmt: skip


def _wait(config: Config, spawned: subprocess.Popen[bytes] | None, say: Say) -> None:
    """Waits until every process is ready, and says which are."""
    end, told = time.monotonic() + START_SECONDS, set[str]()
    known = state.processes() if spawned is None else None  # a new supervisor counts from 0
    earlier = {child.name: child.restarts for child in known.children} if known else {}
    while True:
        found = state.processes()
        if found is None or not found.supervisor.is_alive:
            if spawned is None or spawned.poll() is not None:
                raise NotStarted(f"the supervisor ended: {_tail(state.log_path('supervisor'), 1)}")
        else:
            for child in found.children:
                if child.phase in (Phase.READY, Phase.DONE) and child.name not in told:
                    told.add(child.name)
                    say(f"{child.name}: {child.phase.value}")
                failures = child.restarts - earlier.get(child.name, 0)
                if failures >= ATTEMPTS and child.phase is Phase.WAITING:
                    say(_tail(state.log_path(child.name), LOG_LINES))
                    raise NotStarted(
                        f"{child.name} {child.message}, {failures} times; above is the end of its log "
                        f"{state.log_path(child.name)}. The supervisor keeps trying; `made down` ends it."
                    )
            if found.are_ready:
                return
        if time.monotonic() > end:
            raise NotStarted(f"the service is not ready after {START_SECONDS:g} s: see `made ps`")
        time.sleep(POLL_SECONDS)


def _listed(config: Config, found: Processes | None) -> list[tuple[str, processes.Identity]]:
    """The running processes of the service: first the supervisor's, then those of runs."""
    listed = [("supervisor", found.supervisor)] if found else []
    listed += [(c.name, c.process) for c in found.children if c.process] if found else []
    pid = postgres.server(settings().home_path) if config.has_postgres else None
    server = None if pid is None else processes.identify(pid)
    if server is not None and server not in [p for _, p in listed]:
        listed.append((POSTGRES, server))
    listed += [(f"flow run {run}", p) for run, p in processes.runs(config.id).items()]
    return [(name, process) for name, process in listed if process.is_alive]


def _tail(path: Path, lines: int) -> str:
    try:
        return "\n".join(path.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])
    except OSError:
        return f"(no log at {path})"
