"""The programs that the supervisor runs, in the order in which they start."""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import json
import os
import socket
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

import httpx

from flows.service.processes import MARK
from flows.service.state import Config
from made_core.settings import settings

ANSWER_SECONDS = 5.0
POSTGRES, SERVER, REGISTER, FRONT_DOOR, WORKER = "postgres", "prefect", "register", "front-door", "worker"
FRONT_DOOR_MODULE = "flows.service.front_door"


@dataclass(frozen=True)
class Program:
    """A program of the service.

    Attributes:
        command: arguments, the first is the program.
        variables: what its environment has beside the supervisor's.
        ready: whether it does its work, given when it was started (seconds since the epoch).
        once: it ends by itself; the programs after it start then.
        stop_seconds: how long it may take to end after SIGTERM.
    """

    name: str
    command: tuple[str, ...]
    variables: Mapping[str, str]
    ready: Callable[[float], bool]
    once: bool = False
    stop_seconds: float = 15.0
    digest: str = field(init=False)

    def __post_init__(self) -> None:
        text = json.dumps([self.command, dict(self.variables)], sort_keys=True)
        object.__setattr__(self, "digest", hashlib.blake2b(text.encode(), digest_size=8).hexdigest())

    def environment(self) -> dict[str, str]:
        """Its whole environment."""
        return {**_inherited(), **self.variables}


def programs(config: Config) -> list[Program]:
    """The programs of a service with this configuration, without PostgreSQL."""
    base = {MARK: config.id, "MADE_HOME": str(settings().home_path), "PYTHONUNBUFFERED": "1"}
    clients = {**base, **config.environment()}
    found = [_server(config, base)] if config.has_server else []
    workers = [sys.executable] if config.worker else []  # else they are elsewhere
    register = _python("flows.service.register", str(config.runs), *workers)
    found.append(Program(REGISTER, register, clients, _never, once=True))
    if importlib.util.find_spec(FRONT_DOOR_MODULE) is not None:
        found.append(_front_door(config, clients))
    if config.worker:
        found.append(_worker(config, clients))
    return found


def worker_name() -> str:
    """The name under which Prefect lists the worker."""
    return f"made-{socket.gethostname()}"


def _server(config: Config, base: Mapping[str, str]) -> Program:
    variables = {
        **base,
        "PREFECT_API_DATABASE_CONNECTION_URL": config.prefect_database_url,
        "PREFECT_SERVER_API_AUTH_STRING": config.auth_string,
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_UI_API_URL": "/api",  # of the page's own address, which may be a forwarded port
    }
    command = _python("flows.service.prefect_server", config.listen, str(config.ports.prefect))
    health = f"{config.prefect_api_url}/health"
    return Program(SERVER, command, variables, lambda _: _answers(health))


def _front_door(config: Config, clients: Mapping[str, str]) -> Program:
    variables = {
        **clients,
        "MADE_FRONT_DOOR_HOST": config.front_door_host,
        "MADE_FRONT_DOOR_PORT": str(config.ports.front_door),
    }
    health = f"{config.front_door_url}/health"
    return Program(FRONT_DOOR, _python(FRONT_DOOR_MODULE), variables, lambda _: _answers(health))


def _worker(config: Config, clients: Mapping[str, str]) -> Program:
    command = _python("flows.service.worker", worker_name(), str(config.runs))

    def is_ready(since: float) -> bool:
        reply = httpx.post(
            f"{config.prefect_api_url}/work_pools/made/workers/filter", json={},
            headers=_authorization(clients), timeout=ANSWER_SECONDS,
        )  # fmt: skip
        reply.raise_for_status()
        heard = [w["last_heartbeat_time"] for w in reply.json() if w["name"] == worker_name()]
        return any(datetime.fromisoformat(t.replace("Z", "+00:00")).timestamp() > since for t in heard)

    return Program(WORKER, command, clients, is_ready, stop_seconds=30.0)


def _python(module: str, *args: str) -> tuple[str, ...]:
    return (sys.executable, "-m", module, *args)


def _inherited() -> dict[str, str]:
    """The environment without what names other servers."""
    names = ("PREFECT_API_URL", "PREFECT_API_DATABASE", "PREFECT_SERVER_", "MADE_DATABASE_URL")
    return {name: value for name, value in os.environ.items() if not name.startswith(names)}


def _authorization(variables: Mapping[str, str]) -> dict[str, str]:
    login = variables.get("PREFECT_API_AUTH_STRING") or os.environ.get("PREFECT_API_AUTH_STRING")
    if login:
        return {"Authorization": f"Basic {base64.b64encode(login.encode()).decode()}"}
    if key := os.environ.get("PREFECT_API_KEY"):
        return {"Authorization": f"Bearer {key}"}
    return {}


def _never(_: float) -> bool:
    return False


def _answers(url: str) -> bool:
    # Of this service, over http://: without `verify=False` httpx reads all certificates first, 30 ms a look.
    return httpx.get(url, timeout=ANSWER_SECONDS, verify=False).is_success
