"""Starts front doors, and the deployment that they trigger."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
from prefect.client.orchestration import get_client

from flows.service import register
from flows.service.state import Config
from tests.support import checks, runs

START_SECONDS = 120


@dataclass(frozen=True)
class Door:
    """A running front door."""

    url: str
    token: str
    environ: dict[str, str]  # of a process that `made trigger` runs in
    log: Path

    def client(self) -> httpx.Client:
        """A client with the token."""
        headers = {"Authorization": f"Bearer {self.token}"}
        return httpx.Client(base_url=self.url, headers=headers, timeout=120)


@contextmanager
def front_door(environ: dict[str, str], folder: Path) -> Iterator[Door]:
    """A front door on a free port. `environ` names the servers; token and log are in `folder`."""
    with socket.socket() as probing:
        probing.bind(("127.0.0.1", 0))
        port = probing.getsockname()[1]
    token_file, log = folder / "trigger-token", folder / "front-door.log"
    url = f"http://127.0.0.1:{port}"
    environ = {
        **environ,
        "MADE_FRONT_DOOR": url,
        "MADE_FRONT_DOOR_PORT": str(port),
        "MADE_TRIGGER_TOKEN_FILE": str(token_file),
    }
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "flows.service.front_door"], cwd=checks.ROOT, env=environ,
            stdout=output, stderr=subprocess.STDOUT,
        )  # fmt: skip
        try:
            _wait(url, process, log)
            yield Door(url, token_file.read_text().strip(), environ, log)
        finally:
            process.terminate()
            process.wait(60)


@contextmanager
def service(folder: Path) -> Iterator[Door]:
    """The front door of a service without worker: `made up --no-worker`, with its home in `folder`."""
    environ = {**os.environ, "MADE_HOME": str(folder / "home"), "PREFECT_HOME": str(folder / "prefect")}

    def made(*args: str) -> str:
        done = subprocess.run([runs.MADE, *args], env=environ, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    try:
        made("up", "--no-worker")
        config = Config.model_validate_json((folder / "home" / "service" / "service.json").read_bytes())
        token = (folder / "home" / "service" / "trigger-token").read_text().strip()
        log = folder / "home" / "service" / "logs" / "front-door.log"
        yield Door(config.front_door_url, token, {**environ, **config.environment()}, log)
    finally:
        made("down")


def deploy() -> None:
    """Registers the pool and the deployments with the current Prefect server; a worker can run them."""
    with get_client(sync_client=True) as client:
        register.register_pool(client, 1)
        register.register_deployments(client)


def _wait(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + START_SECONDS
    while True:
        try:
            if httpx.get(f"{url}/health").is_success:
                return
        except httpx.TransportError:
            pass
        assert process.poll() is None and time.monotonic() < end, log.read_text()
        time.sleep(0.1)
