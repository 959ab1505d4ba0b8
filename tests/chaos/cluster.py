"""The parts of a chaos run on one machine: PostgreSQL behind a proxy, Ray on worker nodes, a disk.

Ray's head is on 127.0.0.2 and has no CPUs, so that losing a worker node never ends the driver; the worker
nodes are 127.0.0.3 and so on, each with a raylet and one CPU.
"""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from urllib.request import urlopen

from sqlalchemy import make_url

from flows.private_server import UNREAD
from made_core.errors import DatabaseError
from made_core.ledger import postgres
from tests.chaos.processes import FOLDER, Part, lives
from tests.support import prefect_database
from tests.support.proxy import Proxy

ROOT = Path(__file__).resolve().parents[2]
HEAD, WORKER = "127.0.0.2", "127.0.0.{}"
DISK_BYTES = 64 << 20
RAY = {  # a lost node or head is noticed in seconds
    "RAY_gcs_rpc_server_reconnect_timeout_s": "5",
    "RAY_health_check_initial_delay_ms": "2000",
    "RAY_health_check_period_ms": "1000",
    "RAY_USAGE_STATS_ENABLED": "0",
}


class Database:
    """PostgreSQL, killed and restarted; `url` uses the proxy, `direct` does not."""

    def __init__(self, home: Path, stack: ExitStack) -> None:
        self._home, self._stack = home, stack
        self.direct = stack.enter_context(postgres.embedded(home))
        host = make_url(self.direct).query["host"]
        self.proxy = Proxy(f"{host}/.s.PGSQL.{postgres.PORT}")
        self.url = f"postgresql://postgres@127.0.0.1:{self.proxy.port}/postgres"

    def pids(self) -> list[int]:
        """The postmaster."""
        pid = int((self._home / "postgres" / "postmaster.pid").read_text().split()[0])
        return [pid] if lives(pid) else []

    def restart(self, patience: float = 60) -> None:
        """Starts it; right after a kill its children may still be running."""
        end = time.monotonic() + patience
        while True:
            try:
                self._stack.enter_context(postgres.embedded(self._home))
                return
            except DatabaseError:
                if time.monotonic() > end:
                    raise
                time.sleep(0.2)


class Cluster:
    """Ray: a head without CPUs and worker nodes."""

    def __init__(self, folder: Path, environment: dict[str, str], nodes: int) -> None:
        self._folder = folder
        self.port = free_port()
        self.address = f"{HEAD}:{self.port}"
        token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(16)}
        self.environment = {**environment, **RAY, **token}
        self.head = Part("head", folder, self.environment)
        self.nodes = [
            Part(f"node-{ip}", folder, self.environment) for ip in map(WORKER.format, range(3, 3 + nodes))
        ]

    def start(self) -> None:
        """Starts the head, then the worker nodes once it answers."""
        self.head.start(
            [*self._ray(HEAD, 0), "--head", f"--port={self.port}", "--include-dashboard=false",
             "--no-monitor", f"--ray-client-server-port={free_port()}", f"--dashboard-port={free_port()}"]
        )  # fmt: skip
        wait_for(self.answers, 60, "Ray's head")
        for node in self.nodes:
            self.start_node(node)

    def start_node(self, node: Part) -> None:
        """Starts a worker node after all its old processes have ended."""
        node.kill()
        ip = node.name.removeprefix("node-")
        node.start([*self._ray(ip, 1), f"--address={self.address}"])

    def answers(self) -> bool:
        """Whether the head accepts connections."""
        with socket.socket() as probe:
            return probe.connect_ex((HEAD, self.port)) == 0

    def stop(self) -> None:
        """Kills all remaining processes."""
        for part in (*self.nodes, self.head):
            part.kill()

    def _ray(self, ip: str, cpus: int) -> list[str]:
        return [
            str(Path(sys.executable).with_name("ray")), "start", "--block", f"--node-ip-address={ip}",
            f"--num-cpus={cpus}", "--num-gpus=0", "--object-store-memory=80000000",
            "--min-worker-port=0", "--max-worker-port=0", "--dashboard-agent-listen-port=0",
            f"--temp-dir={self._folder}/ray-{ip}", "--disable-usage-stats", "--include-log-monitor=false",
        ]  # fmt: skip

    def gcs(self) -> list[int]:
        """The head's GCS."""
        return [pid for pid in self.head.find(_program("gcs/gcs_server")) if lives(pid)]

    def raylets(self, node: Part) -> list[int]:
        """A node's raylet."""
        return [pid for pid in node.find(_program("raylet/raylet")) if lives(pid)]

    def busy(self) -> list[int]:
        """Workers that run a task."""
        found = [pid for node in self.nodes for pid in node.find("ray::")]
        idle = [pid for node in self.nodes for pid in node.find("ray::IDLE", "ray::Da", "ray::Ru")]
        return [pid for pid in found if pid not in idle]


class Disk:
    """A small tmpfs for store, output and scratch, which can be filled. Needs root."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        folder.mkdir()
        self.path, self._filler = folder, folder / "filler"
        mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "made-chaos", str(folder)]
        done = subprocess.run(mount, capture_output=True, text=True)
        self.trouble = done.stderr.strip() if done.returncode else None  # why it cannot be filled
        if self.trouble is None:
            stack.callback(subprocess.run, ["umount", "-l", str(folder)], check=True)

    def fill(self) -> None:
        """Fills the disk."""
        state = os.statvfs(self.path)
        if state.f_bavail:
            # An error: others used some of it meanwhile; the next call takes the rest.
            with suppress(OSError), self._filler.open("ab") as file:
                os.posix_fallocate(file.fileno(), file.tell(), state.f_bavail * state.f_frsize)

    def free(self) -> None:
        """Frees the space."""
        self._filler.unlink(missing_ok=True)


class Prefect:
    """Prefect's server, which is never killed."""

    def __init__(self, folder: Path) -> None:
        self._port = free_port()
        self.url = f"http://{HEAD}:{self._port}/api"
        prefect_database.copy(folder / "prefect" / "prefect.db")
        own = {
            "PREFECT_HOME": f"{folder}/prefect",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            **{f"PREFECT_SERVER_SERVICES_{name}_ENABLED": "false" for name in UNREAD},
        }
        self.server = Part("prefect-server", folder, {**os.environ, **own})

    def start(self) -> None:
        """Starts it; it answers later."""
        self.server.start(
            [sys.executable, "-m", "uvicorn", "--factory", "prefect.server.api.server:create_app",
             f"--host={HEAD}", f"--port={self._port}", "--log-level=error"]
        )  # fmt: skip

    def answers(self) -> bool:
        """Whether it answers."""
        try:
            with urlopen(f"{self.url}/health", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False


def environment(folder: Path, scratch: Path, database_url: str, api_url: str) -> dict[str, str]:
    """What all processes of a chaos run have in common."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(("MADE_", "RAY_"))}
    return {
        **own,
        FOLDER: str(folder),
        "MADE_DATABASE_URL": database_url,
        "MADE_SCRATCH": str(scratch),
        "PREFECT_API_URL": api_url,
        "PREFECT_HOME": f"{folder}/prefect",
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
        "PYTHONPATH": str(ROOT),
    }


def _program(name: str) -> str:
    import ray

    return str(Path(ray.__file__).parent / "core" / "src" / "ray" / name)


def free_port() -> int:
    """A free port."""
    with socket.socket() as probe:
        probe.bind((HEAD, 0))
        return int(probe.getsockname()[1])


def wait_for(true: Callable[[], bool], seconds: float, what: str) -> None:
    """Waits until `true()`; raises TimeoutError."""
    end = time.monotonic() + seconds
    while not true():
        if time.monotonic() > end:
            raise TimeoutError(f"{what}: not there after {seconds:g} s")
        time.sleep(0.1)
