"""Settings from the environment: where things are. A recipe says what to do.

No other module reads them. What a batch system, Prefect or a launcher sets is read where it is used.
"""

from __future__ import annotations

import re
import socket
from functools import cache
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from made_core.errors import UserError

PREFIX = "MADE_"
SEPARATOR = re.compile(r":(?=/(?!/)|~|\w+://|$)")  # between roots: not the colon of s3:// or of a port


def _with_home(path: Path) -> Path:
    """The path, whose ~ can be expanded."""
    try:
        path.expanduser()
    except RuntimeError:
        raise ValueError(f"no home folder is known for {path.parts[0]}") from None
    return path


def _named(value: Any) -> Any:
    """The value, unless it is empty: Path("") is the working directory."""
    if value == "":
        raise ValueError("it is empty")
    return value


Folder = Annotated[Path, BeforeValidator(_named), AfterValidator(_with_home)]


class Settings(BaseSettings):
    """Values from the environment, each named `MADE_<FIELD>`."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True)

    database_url: str | None = Field(
        None,
        description="PostgreSQL URL of the ledger; default: a private server started in home",
    )
    ray_address: str | None = Field(
        None, description="host:port of a running Ray head; default: Ray starts on this machine"
    )
    home: Folder = Field(
        Path("~/.made"), description="folder of the private PostgreSQL server's data, on a disk of this host"
    )
    scratch: Folder | None = Field(
        None, description="folder for local copies of remote files; default: the system's temporary folder"
    )
    pbs_folder: Folder | None = Field(
        None,
        description="folder of the scripts and logs of PBS jobs, on a shared file system; default: home/pbs",
    )
    servers: Folder = Field(
        Path("~/.made/servers"),
        description="folder of the ledger of PBS batch jobs that were given none, on a shared file system",
    )
    log_folder: str | None = Field(
        None, description="folder for the log files of runs and their workers; default: none are written"
    )
    roots: str | None = Field(
        None,
        description="colon-separated folders and URLs that recipes may name; default: all that the "
        "process may read and write",
    )
    front_door: str | None = Field(
        None, description="URL that `made trigger` posts to; default: the front door of this host's service"
    )
    front_door_host: str = Field("127.0.0.1", description="address that the front door listens on")
    front_door_port: int = Field(4280, ge=1, le=65535, description="port that the front door listens on")
    trigger_token_file: Folder | None = Field(
        None, description="file of the front door's token; default: service/trigger-token in home"
    )
    host: str = Field(
        default_factory=socket.gethostname, description="name of this host in the ledger; default: hostname"
    )
    stop_at: float | None = Field(
        None,
        allow_inf_nan=False,
        description="when runs end themselves, in seconds since the epoch; set by the PBS launcher",
    )

    @property
    def allowed(self) -> tuple[str, ...] | None:
        """`roots`, each on its own; None: no confinement."""
        if self.roots is None:
            return None
        return tuple(root for root in SEPARATOR.split(self.roots) if root)

    @property
    def home_path(self) -> Path:
        """`home`, absolute."""
        return self.home.expanduser().resolve()

    @property
    def pbs_path(self) -> Path:
        """`pbs_folder`, absolute."""
        return (self.pbs_folder or self.home / "pbs").expanduser().resolve()

    @property
    def servers_path(self) -> Path:
        """`servers`, absolute."""
        return self.servers.expanduser().resolve()


@cache
def settings() -> Settings:
    """The settings of this process, read once.

    Raises:
        UserError: a variable has a value that is not allowed; names the variable, the value and the host,
            because a worker has the environment of its node.
    """
    try:
        return Settings()
    except ValidationError as error:
        found = "; ".join(_sentence(each) for each in error.errors())
        raise UserError(
            f"environment on {socket.gethostname()}: {found}; correct it, or unset it for the default"
        ) from None


def _sentence(error: Any) -> str:
    """What is wrong with a variable, and what it is for. `error`: of pydantic."""
    name = str(error["loc"][0])
    why = error["msg"].removeprefix("Value error, ")
    purpose = Settings.model_fields[name].description
    return f"{PREFIX}{name.upper()}={error['input']} is not valid: {why[:1].lower()}{why[1:]} ({purpose})"
