"""The agent of a node: starts its part of the Ray cluster and ends it, whatever happens to the launcher.

`python -m flows.pbs.node FOLDER NODE HOST:PORT` runs until the head's agent says stop or is gone. With
`--head` instead of HOST:PORT it returns once Ray's head has started, and continues in the background until it
gets SIGTERM or the process OWNER ends.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Mapping
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path

from flows.pbs import ports, resources
from flows.pbs.cluster import ClusterFolder, Head
from flows.pbs.control import Desk, Line
from flows.pbs.janitor import MARK, Janitor, clean
from flows.pbs.ports import Block
from flows.pbs.stops import Stops
from made_core.errors import MadeError, UserError

SOCKET_PATH_BYTES = 107  # Linux: sun_path without its terminating NUL
SESSION = "/r/session_2026-01-01_00-00-00_000000_1234567/sockets/plasma_store"  # below the temporary folder
STOP_SECONDS = 4.0  # for Ray, and for the other nodes; PBS gives ten in all
START_SECONDS = 300.0  # a cold shared file system serves Python slowly
ATTEMPTS = 3  # to start Ray
TICK = 0.2
TMP = "MADE_NODE_TMP"  # folder of this host for Ray's sessions; default /tmp
DASHBOARD = "MADE_RAY_DASHBOARD"


def main(arguments: list[str]) -> int:
    """Runs the agent; returns its exit code."""
    parser = ArgumentParser(prog="python -m flows.pbs.node", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("node", help="name of this node, as the scheduler calls it")
    parser.add_argument("desk", nargs="?", help="host:port of the head's agent")
    parser.add_argument("--head", action="store_true")
    parser.add_argument("--peer", help="another node of the job")
    parser.add_argument("--owner", type=int, help="process that the cluster belongs to")
    given = parser.parse_args(arguments)
    try:
        return _daemon(lambda ready: _head(given, ready)) if given.head else _worker(given)
    except MadeError as error:
        print(f"{given.node}: {error}", flush=True)
        return 1


def _daemon(run: Callable[[Callable[[], None]], int]) -> int:
    """Runs in a session of its own; returns when `ready` is called, or with the exit code if it is not."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        os.setsid()
        try:
            code = run(lambda: os.close(writer) if os.write(writer, b"1") else None)
        except MadeError as error:
            print(error, flush=True)
            code = 1
        except BaseException:
            sys.excepthook(*sys.exc_info())
            code = 1
        sys.stdout.flush()
        os._exit(code)
    os.close(writer)
    if os.read(reader, 1):
        return 0
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) or 1


def _head(given: Namespace, ready: Callable[[], None]) -> int:
    folder = ClusterFolder(given.folder)
    with Stops(given.owner) as stops, Local(folder, given.node, given.peer) as local:
        port = local.block.first
        desk = Desk(local.address, port, folder.token)
        dashboard = None if os.environ.get(DASHBOARD) == "0" else port + 2
        head = Head(given.node, local.address, port, port + 1, dashboard, os.getpid())
        local.start(
            stops.due, "--head", f"--port={head.ray_port}", f"--include-dashboard={dashboard is not None}",
            f"--dashboard-port={port + 2}", "--dashboard-host=127.0.0.1",
            f"--ray-client-server-port={port + 3}",
        )  # fmt: skip
        folder.write_head(head)
        ready()
        code = local.run_until(stops.due)
        stopping = threading.Thread(target=local.stop_ray)
        stopping.start()
        late = desk.stop(STOP_SECONDS)
        stopping.join()
        if late:
            print(f"did not report back: {', '.join(late)}", flush=True)
    return code


def _worker(given: Namespace) -> int:
    folder = ClusterFolder(given.folder)
    host, _, port = given.desk.rpartition(":")
    line = None
    with Stops(None) as stops:
        try:
            with Local(folder, given.node, host) as local:
                line = Line((host, int(port)), folder.token, given.node)
                head = folder.head()
                ended = line.ended

                def due() -> bool:
                    return stops.due() or ended.is_set()

                local.start(due, f"--address={head.ray_address}")
                code = local.run_until(due)
                local.stop_ray()
        finally:
            if line is not None:
                line.close()  # after the janitor has done its work
    return code


class Local:
    """This node's part of the cluster: its ports, its temporary folder and `ray start`."""

    def __init__(self, folder: ClusterFolder, node: str, peer: str | None) -> None:
        self.node = node
        self._folder = folder
        self.address = resources.address(node, peer)
        share = resources.share_of(node, folder.shares())
        self.cpus, self.gpus = resources.cpus(share), resources.gpus(share)
        self._memory = resources.object_store()
        seed = int.from_bytes(blake2b(str(folder.path).encode(), digest_size=4).digest(), "big")
        self.block: Block = ports.claim(self.address, 2 * self.cpus + 32, seed)
        self._temporary = _temporary_folder(os.environ)
        self._mark = f"{folder.path}/{node}"
        self._janitor = Janitor(self._mark, self._temporary, self._forget)
        self._ray: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Local:
        return self

    def __exit__(self, *_: object) -> None:
        self._janitor.finish()

    def _forget(self) -> None:
        self.block.release()
        self._folder.remove_if_headed_by(self.node)

    def start(self, due: Callable[[], bool], *options: str) -> None:
        """Starts Ray and waits until it runs; again where it fails: Ray gives even a busy node 30 s alone.

        Raises:
            MadeError: it does not start, or it is `due` to stop.
        """
        end = time.monotonic() + START_SECONDS
        for attempt in range(1, ATTEMPTS + 1):
            self._ray = self._start_ray(*options)
            started = self._temporary / "r" / "ray_current_cluster"
            while not started.exists() and self._ray.poll() is None:
                if due() or time.monotonic() > end:
                    raise MadeError("stopped" if due() else f"ray start took more than {START_SECONDS:g} s")
                time.sleep(TICK)
            if self._ray.poll() is None:
                return
            print(f"attempt {attempt}: ray start ended with exit code {self._ray.returncode}", flush=True)
            clean(self._mark)
            shutil.rmtree(self._temporary / "r", ignore_errors=True)
        raise MadeError(f"ray start has failed {ATTEMPTS} times")

    def _start_ray(self, *options: str) -> subprocess.Popen[bytes]:
        """`ray start --block` with all ports from the block."""
        first = self.block.first
        low, high = self.block.workers
        command = [
            sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--log-style=record",
            f"--node-ip-address={self.address}", f"--num-cpus={self.cpus}", f"--num-gpus={self.gpus}",
            f"--object-store-memory={self._memory}", f"--temp-dir={self._temporary}/r",
            "--disable-usage-stats",
            f"--node-manager-port={first + 4}", f"--object-manager-port={first + 5}",
            f"--runtime-env-agent-port={first + 6}", f"--dashboard-agent-listen-port={first + 7}",
            f"--dashboard-agent-grpc-port={first + 8}", f"--metrics-export-port={first + 9}",
            f"--min-worker-port={low}", f"--max-worker-port={high}", *options,
        ]  # fmt: skip
        print(
            f"node {self.node}: {self.address}, {self.cpus} CPUs, {self.gpus} GPUs, ports {first} to {high}, "
            f"{self._memory >> 20} MiB of object store, {self._temporary}", flush=True,
        )  # fmt: skip
        own = {
            **os.environ, **self._folder.ray_environment(), MARK: self._mark,
            "MADE_HOST": self.node,
            "AUTOSCALER_METRIC_PORT": str(first + 10), "DASHBOARD_METRIC_PORT": str(first + 11),
        }  # fmt: skip
        # PBS sets it to all CPUs of the node. Without it, Ray gives each worker the CPUs of its task.
        own.pop("OMP_NUM_THREADS", None)
        return subprocess.Popen(command, env=own, stdin=subprocess.DEVNULL)

    def run_until(self, due: Callable[[], bool]) -> int:
        """Waits; returns 0 when it is due, 1 if Ray ended by itself."""
        assert self._ray is not None
        while not due():
            if (code := self._ray.poll()) is not None:
                print(f"node {self.node}: ray ended with exit code {code}", flush=True)
                return 1
            time.sleep(TICK)
        return 0

    def stop_ray(self) -> None:
        """Ends it within STOP_SECONDS. What is left, the janitor kills."""
        assert self._ray is not None
        self._ray.terminate()
        with suppress(subprocess.TimeoutExpired):
            self._ray.wait(STOP_SECONDS)


def _temporary_folder(environment: Mapping[str, str]) -> Path:
    """A new folder with a path short enough for Ray's sockets."""
    base = Path(environment.get(TMP, "/tmp"))
    if not os.access(base, os.W_OK | os.X_OK):
        raise UserError(f"{TMP}={base} cannot be written")
    folder = Path(tempfile.mkdtemp(prefix="made-", dir=base))
    if len(os.fsencode(str(folder) + SESSION)) > SOCKET_PATH_BYTES:
        shutil.rmtree(folder)
        most = SOCKET_PATH_BYTES - len(SESSION) - len("/made-12345678")
        raise UserError(f"{TMP}={base} is too long for Ray's sockets: at most {most} characters")
    return folder


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
