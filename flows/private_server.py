"""A Prefect server for one command, with a database that is removed with it.

Its schema takes Prefect's migrations six seconds of CPU: a copy of the empty database is kept in MADE_HOME.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import prefect
from prefect.settings import get_current_settings

from flows.lasting import end_with_parent
from made_core.errors import MadeError
from made_core.settings import settings

START_SECONDS = 120  # imports take tens of seconds on a busy machine
STOP_SECONDS = 5
POLL_SECONDS = 0.05
HOST = "127.0.0.1"
# Services that store task runs and events, which nobody reads here: two thirds of the server's CPU in a run.
UNREAD = ("TASK_RUN_RECORDER", "EVENT_PERSISTER", "TRIGGERS")


@dataclass(frozen=True)
class PrivateServer:
    """A Prefect server that starts, or runs."""

    process: subprocess.Popen[bytes]
    api_url: str
    auth_string: str  # user:password, without which it answers 401
    folder: Path  # of its database and its log

    def wait(self) -> None:
        """Waits until it answers. Raises MadeError if it ends, or takes longer than `START_SECONDS`."""
        end = time.monotonic() + START_SECONDS
        while not _answers(f"{self.api_url}/health"):
            if self.process.poll() is not None:
                with suppress(OSError):
                    _template().unlink()  # in case it is that
                raise MadeError(f"Prefect's server ended with code {self.process.returncode}: {self._log()}")
            if time.monotonic() > end:
                raise MadeError(f"Prefect's server does not answer after {START_SECONDS} s: {self._log()}")
            time.sleep(POLL_SECONDS)
        if not _template().exists():
            with suppress(OSError, sqlite3.Error):  # MADE_HOME may be read-only: the next start takes longer
                _keep(self.folder / "prefect.db")

    def _log(self) -> str:
        lines = (self.folder / "server.log").read_text(errors="replace").split("\n")
        return next((line for line in reversed(lines) if line.strip()), "it logged nothing")


@contextmanager
def private_server(folder: Path) -> Iterator[PrivateServer]:
    """Starts a server with its files in `folder`; it is stopped at the end of the context.

    If this process is killed, the server ends too.
    """
    database = folder / "prefect.db"
    copied = _copy_template(database)
    with closing(socket.socket()) as found:
        found.bind((HOST, 0))
        port = found.getsockname()[1]
    login = f"made:{secrets.token_urlsafe(24)}"  # other users of this machine reach its port
    command = [
        sys.executable, "-m", "uvicorn", "--app-dir", str(prefect.__module_path__.parent),
        "--factory", "prefect.server.api.server:create_app",
        "--host", HOST, "--port", str(port), "--log-level", "error", "--lifespan", "on",
    ]  # fmt: skip
    environment = {
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        **{f"PREFECT_SERVER_SERVICES_{name}_ENABLED": "false" for name in UNREAD},
        **os.environ,
        **get_current_settings().to_environment_variables(exclude_unset=True),
        "PREFECT_API_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{database}",
        "PREFECT_SERVER_API_AUTH_STRING": login,
        "PREFECT_UI_ENABLED": "0",
        "PREFECT__SERVER_EPHEMERAL": "1",  # without the services of a lasting server
        "PREFECT__SERVER_FINAL": "1",
    }
    if copied:
        environment["PREFECT_SERVER_DATABASE_MIGRATE_ON_START"] = "false"
        environment["PREFECT_API_BLOCKS_REGISTER_ON_START"] = "false"
    # Ctrl-C must not reach the server: log handlers would wait for a server that is gone.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        with (folder / "server.log").open("wb") as log:
            process = subprocess.Popen(
                command, env=environment, stdout=log, stderr=log, preexec_fn=end_with_parent
            )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    try:
        yield PrivateServer(process, f"http://{HOST}:{port}/api", login, folder)
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _template() -> Path:
    return settings().home_path / f"prefect-{prefect.__version__}.db"


def _copy_template(database: Path) -> bool:
    """Copies the kept database to `database`, and says whether there is one. Removes one without a schema."""
    try:
        with closing(sqlite3.connect(f"{_template().absolute().as_uri()}?mode=ro", uri=True)) as kept:
            kept.execute("SELECT version_num FROM alembic_version")
    except sqlite3.Error:
        with suppress(OSError):
            _template().unlink()
        return False
    shutil.copyfile(_template(), database)
    return True


def _keep(database: Path) -> None:
    """Keeps a copy of a database that has only its schema."""
    copy = _template().with_suffix(f".{os.getpid()}")
    copy.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(database)) as source, closing(sqlite3.connect(copy)) as target:
        source.backup(target)
    copy.rename(_template())


def _answers(url: str) -> bool:
    try:
        # The URL is http://: without `verify=False` httpx reads all certificates first, 30 ms at each look.
        return httpx.get(url, timeout=START_SECONDS, verify=False).status_code == httpx.codes.OK
    except httpx.TransportError:
        return False
