"""The state of the service, in MADE_HOME/service: its configuration with the secrets, and its processes."""

from __future__ import annotations

import fcntl
import os
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from flows.service.processes import Identity
from made_core.errors import UserError
from made_core.ledger.postgres_tcp import USER
from made_core.settings import settings

LOOPBACK = "127.0.0.1"
LOGIN = "admin"
PREFECT_DATABASE = "prefect"
ModelT = TypeVar("ModelT", bound=BaseModel)


class Ports(BaseModel):
    """TCP ports, chosen at the first start and kept."""

    postgres: int
    prefect: int
    front_door: int


class Given(BaseModel):
    """Servers that the service uses instead of starting its own."""

    model_config = ConfigDict(frozen=True)

    database_url: str | None = None
    prefect_api_url: str | None = None


class Config(BaseModel):
    """How the service is set up. Holds secrets: only this user may read its file."""

    id: str = Field(default_factory=lambda: secrets.token_hex(8))
    listen: str = LOOPBACK
    front_door_host: str = LOOPBACK  # on which the front door listens, whatever the others do
    runs: int = 1
    worker: bool = True
    given: Given = Given()
    ports: Ports
    postgres_password: str = Field(default_factory=lambda: secrets.token_urlsafe(24))
    auth_string: str = Field(default_factory=lambda: f"{LOGIN}:{secrets.token_urlsafe(24)}")
    earlier_profile: str | None = None  # Prefect's active profile before this service's

    @property
    def host(self) -> str:
        """The address under which clients reach the service."""
        return socket.gethostname() if self.listen in ("0.0.0.0", "::") else self.listen

    @property
    def has_postgres(self) -> bool:
        """Whether the service runs a PostgreSQL: for the ledger, for Prefect or for both."""
        return self.given.database_url is None or self.has_server

    @property
    def has_server(self) -> bool:
        """Whether the service runs a Prefect server."""
        return self.given.prefect_api_url is None

    @property
    def database_url(self) -> str:
        """The ledger's database."""
        return self.given.database_url or self._postgres("postgresql", "postgres")

    @property
    def prefect_database_url(self) -> str:
        """The database of the service's Prefect server."""
        return self._postgres("postgresql+asyncpg", PREFECT_DATABASE)

    @property
    def prefect_api_url(self) -> str:
        """Prefect's API."""
        return self.given.prefect_api_url or f"{self.prefect_url}/api"

    @property
    def prefect_url(self) -> str:
        """Where a browser finds the Prefect server."""
        if self.given.prefect_api_url is not None:
            return self.given.prefect_api_url.rstrip("/").removesuffix("/api")
        return f"http://{_in_url(self.host)}:{self.ports.prefect}"

    @property
    def front_door_url(self) -> str:
        """Where processes of this machine reach the front door."""
        host = {"0.0.0.0": LOOPBACK, "::": "::1"}.get(self.front_door_host, self.front_door_host)
        return f"http://{_in_url(host)}:{self.ports.front_door}"

    def environment(self) -> dict[str, str]:
        """The variables with which another process meets the service's servers."""
        found = {"MADE_DATABASE_URL": self.database_url, "PREFECT_API_URL": self.prefect_api_url}
        if self.has_server:
            found["PREFECT_API_AUTH_STRING"] = self.auth_string
        return found

    def _postgres(self, driver: str, name: str) -> str:
        password = quote(self.postgres_password, safe="")
        return f"{driver}://{USER}:{password}@{_in_url(self.host)}:{self.ports.postgres}/{name}"


class Phase(str, Enum):
    """What a process of the service is doing."""

    STARTING = "starting"
    READY = "ready"
    DONE = "done"  # a program that runs once
    WAITING = "waiting"  # it ended, and is started again after a pause


class Child(BaseModel):
    """A process of the service, as the supervisor records it."""

    name: str
    phase: Phase
    process: Identity | None = None
    program: str = ""  # digest of its command and environment
    restarts: int = 0
    message: str = ""


class Processes(BaseModel):
    """The processes of the service."""

    supervisor: Identity
    children: list[Child] = []
    host: str = ""  # where they run; earlier versions did not record it

    @property
    def are_ready(self) -> bool:
        """Whether every process does its work."""
        return bool(self.children) and all(c.phase in (Phase.READY, Phase.DONE) for c in self.children)


def folder() -> Path:
    """The folder of the service's state."""
    return settings().home_path / "service"


def log_path(name: str) -> Path:
    """The log file of a process."""
    return folder() / "logs" / f"{name}.log"


def config() -> Config | None:
    """The configuration of the last start; None before the first."""
    return _read(folder() / "service.json", Config)


def save_config(new: Config) -> None:
    """Writes the configuration."""
    _write(folder() / "service.json", new)


def processes() -> Processes | None:
    """The processes that the last supervisor recorded; they may have ended since."""
    return _read(folder() / "processes.json", Processes)


def save_processes(new: Processes) -> None:
    """Records the processes."""
    _write(folder() / "processes.json", new)


def elsewhere() -> str | None:
    """Says on which other host the service runs. None: on this one, or nowhere."""
    found = processes()
    if found is None or found.host in ("", socket.gethostname()):
        return None
    if found.supervisor.is_alive:  # this host was renamed
        return None
    return (
        f"the service of {settings().home_path} runs on {found.host}, as far as is known: run this there; "
        f"if {found.host} is gone for good, remove {folder() / 'processes.json'}"
    )


def check_here() -> None:
    """Raises UserError if the service runs on another host, which shares this home."""
    if (text := elsewhere()) is not None:
        raise UserError(text)


def forget_processes() -> None:
    """Records that no process is left."""
    (folder() / "processes.json").unlink(missing_ok=True)


@contextmanager
def locked(name: str) -> Iterator[None]:
    """Only one process at a time is inside, for each name."""
    _make(folder())
    with (folder() / f"{name}.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def supervising() -> Iterator[bool]:
    """Yields whether this process is now the supervisor: only one may be, and its death ends the claim."""
    _make(folder())
    with (folder() / "supervisor.lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


def is_up() -> bool:
    """Whether a supervisor runs."""
    found = processes()
    return found is not None and found.supervisor.is_alive


def running() -> Config | None:
    """The configuration of the service if it is up."""
    return config() if is_up() else None


def _read(path: Path, model: type[ModelT]) -> ModelT | None:
    try:
        return model.model_validate_json(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror}): set MADE_HOME to a folder of yours"
        ) from None
    except ValidationError as error:
        first = "run `made down`, " if model is Config else ""  # which does not need the configuration
        raise UserError(
            f"{path} is damaged ({error.errors()[0]['msg']}): {first}remove it, then `made up`"
        ) from None


def _make(place: Path) -> None:
    """Creates a folder for this user alone. Raises UserError if that is impossible."""
    try:
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"{place} cannot be created ({error.strerror}): set MADE_HOME to a folder on a disk of this host"
        ) from None


def _write(path: Path, model: BaseModel) -> None:
    _make(path.parent)
    fresh = path.with_suffix(".new")
    fresh.unlink(missing_ok=True)
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(model.model_dump_json(indent=2) + "\n")
    fresh.replace(path)


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host
