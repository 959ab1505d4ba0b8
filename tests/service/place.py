"""The servers of the scenarios: PostgreSQL, Ray, and a Prefect server that can be taken away."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import ray
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows.service import register
from made_core.ledger import postgres
from made_core.ledger.ledger import Ledger
from made_core.sample.write import write_sample
from made_core.settings import settings
from tests.support import prefect_database
from tests.support.deployed import PREFECT, Worker, wait


@dataclass
class Place:
    """Where the scenarios run."""

    folder: Path
    port: int
    environ: dict[str, str]
    ledger: Ledger
    source: Path
    server: subprocess.Popen[bytes] | None = None
    workers: list[Worker] = field(default_factory=list)

    @property
    def url(self) -> str:
        """Prefect's API."""
        return f"http://127.0.0.1:{self.port}/api"

    def start_server(self) -> None:
        """Starts Prefect's server on its database, and waits until it answers."""
        command = [str(PREFECT), "server", "start", "--port", str(self.port)]
        with (self.folder / "server.log").open("ab") as log:
            self.server = subprocess.Popen(command, env=self.environ, stdout=log, stderr=log)

        def answers() -> bool | None:
            try:
                return httpx.get(f"{self.url}/health", timeout=5).is_success or None
            except httpx.HTTPError:
                return None

        wait(answers, "Prefect's server")

    def stop_server(self) -> None:
        """Kills it."""
        if self.server is not None:
            self.server.kill()
            self.server.wait()

    def worker(self) -> Worker:
        """A worker."""
        self.workers.append(Worker(self.environ, self.folder / f"worker-{len(self.workers)}.log"))
        return self.workers[-1]


@contextmanager
def place(folder: Path) -> Iterator[Place]:
    """The servers, inside the context; the deployments are registered."""
    write_sample(folder / "sample", samples=160, shards=8, seed=6)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    with postgres.embedded(folder / "home") as url, closing(Ledger.open(url)) as ledger:
        os.environ["MADE_DATABASE_URL"], os.environ["MADE_HOME"] = url, str(folder / "home")
        settings.cache_clear()
        ray.init("local", num_cpus=1, include_dashboard=False, log_to_driver=False)
        environ = {
            **os.environ,
            "MADE_RAY_ADDRESS": ray.get_runtime_context().gcs_address,
            "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
            "PREFECT_HOME": str(folder / "prefect"),
            "PREFECT_SERVER_UI_API_URL": f"http://127.0.0.1:{port}/api",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_API_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{folder}/prefect.db",
        }
        prefect_database.copy(folder / "prefect.db")
        here = Place(folder, port, environ, ledger, folder / "sample" / "shards")
        here.start_server()
        try:
            with temporary_settings({PREFECT_API_URL: here.url}):
                with get_client(sync_client=True) as client:
                    register.register_pool(client, 4, sys.executable)
                    register.register_deployments(client)
                yield here
        finally:
            for worker in here.workers:
                worker.kill()
            here.stop_server()
            ray.shutdown()
