"""compose.yaml's services as processes: commands, environments, mounts and health checks, read from the file.

Each service runs in the image's root, in namespaces of its own: processes, mounts, IPC, and a network on a
bridge without a way out, where the others know it by its name. Needs root.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.containers.compose import seconds
from tests.support.containers.dockerfile import Stage
from tests.support.containers.root import Layer, Mount, Root

SUBNET = "10.213.7"
POLL_SECONDS = 0.5
NOT_RUNNING = 137


@dataclass
class Service:
    """A service that was started."""

    name: str
    values: dict[str, Any]
    process: subprocess.Popen[bytes]
    log: Path
    began: float = field(default_factory=time.monotonic)
    healthy_after: float | None = None  # seconds

    @property
    def first(self) -> int | None:
        """The id of its first process, of this machine; None before that runs the image's entrypoint."""
        pid = self.process.pid
        try:
            child = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0]
            name = Path(f"/proc/{child}/comm").read_text().strip()
        except (OSError, IndexError):
            return None
        return int(child) if name == self.values["entrypoint"][0] else None


@dataclass
class Project:
    """The services of a compose file's default profile, on `layers`, the image of `stage`."""

    layers: tuple[Layer, ...]
    stage: Stage
    values: dict[str, Any]
    base: Path  # the compose file's folder
    folder: Path  # for volumes, logs and the services' own layers
    tag: str  # begins the names of namespaces
    running: list[Service] = field(default_factory=list)

    @contextmanager
    def network(self) -> Iterator[None]:
        """A bridge with a namespace for each service."""
        bridge = f"{self.tag}br"
        try:
            _ip(f"link add {bridge} type bridge")
            _ip(f"addr add {SUBNET}.1/24 dev {bridge}")
            _ip(f"link set {bridge} up")
            for number, name in enumerate(self.values["services"], start=2):
                space, cable = self._namespace(name), f"{self.tag}v{number}"
                _ip(f"netns add {space}")
                _ip(f"link add {cable} type veth peer name eth0 netns {space}")
                _ip(f"link set {cable} master {bridge} up")
                _ip(f"-n {space} link set lo up")
                _ip(f"-n {space} addr add {SUBNET}.{number}/24 dev eth0")
                _ip(f"-n {space} link set eth0 up")
            yield
        finally:
            for name in self.values["services"]:
                subprocess.run(["ip", "netns", "del", self._namespace(name)], stderr=subprocess.DEVNULL)
            subprocess.run(["ip", "link", "del", bridge], stderr=subprocess.DEVNULL)

    def up(self) -> None:
        """Starts the services, each when those it depends on are as it asks, and waits until all are healthy.

        Raises AssertionError with the log of a service that ends or is unhealthy.
        """
        hosts = [f"{self._address(name)} {name}" for name in self.values["services"]]
        (self.folder / "hosts").write_text("\n".join(["127.0.0.1 localhost", *hosts, ""]))
        for name in self.order():
            for other, wanted in self.values["services"][name].get("depends_on", {}).items():
                self.wait(other, wanted["condition"])
            self.start(name)
        for service in list(self.running):
            if "healthcheck" in service.values:
                self.wait(service.name, "service_healthy")

    def order(self) -> list[str]:
        """The services, each behind those that it depends on."""
        services, found = self.values["services"], []

        def add(name: str) -> None:
            for other in services[name].get("depends_on", {}):
                add(other)
            if name not in found:
                found.append(name)

        for name, values in services.items():
            if not values.get("profiles"):
                add(name)
        return found

    def start(self, name: str) -> None:
        """Starts a service."""
        values, log = self.values["services"][name], self.folder / f"{name}.log"
        own = self.folder / name
        own.mkdir(parents=True, exist_ok=True)
        root = self._root(name, own / "upper")
        argv = ["ip", "netns", "exec", self._namespace(name),
                *root.argv([*values["entrypoint"], *values["command"]])]  # fmt: skip
        with log.open("ab") as file:
            process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=file, stderr=file)
        self.running.append(Service(name, values, process, log))

    def wait(self, name: str, condition: str) -> None:
        """Waits until a service is healthy, as an engine sees it, or has completed.

        Raises AssertionError with its log.
        """
        service = self.service(name)
        check = service.values.get("healthcheck", {})
        start = seconds(check.get("start_period", "0s"))
        failures, why = 0, ""
        while True:
            code = service.process.poll()
            if condition == "service_completed_successfully" and code == 0:
                return
            if code is not None:
                break
            if condition == "service_healthy":
                done = self.exec(name, check["test"][1:], timeout=seconds(check["timeout"]))
                age = time.monotonic() - service.began
                if done.returncode == 0:
                    service.healthy_after = service.healthy_after or round(age, 1)
                    return
                why = done.stdout + done.stderr
                failures = failures + 1 if age > start else 0
                if failures == check["retries"]:
                    break
            time.sleep(POLL_SECONDS)
        raise AssertionError(f"{name} is not {condition} (exit code {code}): {why}\n{tail(service.log)}")

    def wait_for_line(self, name: str, text: str, seconds: float = 300.0) -> None:
        """Waits until a service has logged a text. Raises AssertionError with its log."""
        log, end = self.service(name).log, time.monotonic() + seconds
        while text not in log.read_text(errors="replace"):
            assert time.monotonic() < end, f"{name} did not log {text!r}:\n{tail(log)}"
            time.sleep(POLL_SECONDS)

    def service(self, name: str) -> Service:
        """The running service of that name."""
        return next(service for service in self.running if service.name == name)

    def exec(
        self, name: str, command: Sequence[str], timeout: float | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Runs a command in a running service, as `docker compose exec` and health checks do."""
        first = self.service(name).first
        if first is None:
            return subprocess.CompletedProcess(command, NOT_RUNNING, "", f"{name} is not running")
        root = self._root(name, None)
        words = [f"{key}={value}" for key, value in root.environment.items()]
        spaces = ["--mount", "--uts", "--ipc", "--net", "--pid", "--root", "--wd"]
        argv = ["nsenter", f"--target={first}", *spaces, "env", "-i", *words, *root.become(), *command]
        try:
            return subprocess.run(
                argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout
            )
        except subprocess.TimeoutExpired:
            return subprocess.CompletedProcess(command, NOT_RUNNING, "", f"no answer in {timeout} s")

    def down(self) -> list[str]:
        """Ends the services in reverse order with SIGTERM; returns those that had to be killed."""
        killed = []
        for service in reversed(self.running):
            if service.first is not None:
                os.kill(service.first, signal.SIGTERM)
            elif service.process.poll() is None:
                service.process.kill()
            try:
                service.process.wait(timeout=seconds(service.values.get("stop_grace_period", "10s")))
            except subprocess.TimeoutExpired:
                killed.append(service.name)
                service.process.kill()
                service.process.wait()
        self.running.clear()
        return killed

    def _namespace(self, name: str) -> str:
        return f"{self.tag}-{name}"

    def _address(self, name: str) -> str:
        return f"{SUBNET}.{2 + list(self.values['services']).index(name)}"

    def _root(self, name: str, upper: Path | None) -> Root:
        """The root of a service: what its image and its entry in the file say."""
        values = self.values["services"][name]
        environment = {
            **self.stage.environment,
            "HOME": "/home/made",
            **{key: str(value) for key, value in values["environment"].items()},
        }
        mounts = [
            Mount(
                self.base / self.values["secrets"][secret]["file"],
                f"/run/secrets/{secret}",
                is_read_only=True,
            )
            for secret in values.get("secrets", [])
        ]
        for volume in values.get("volumes", []):
            source, target, *mode = volume.split(":")
            if source in self.values["volumes"]:
                folder = self.folder / "volumes" / source
                if not folder.exists():
                    folder.mkdir(parents=True)
                    os.chown(folder, *map(int, self.stage.user.split(":")))
                source = str(folder)
            mounts.append(Mount(Path(source), target, is_read_only=mode == ["ro"]))
        mounts.append(Mount(self.folder / "hosts", "/etc/hosts"))
        return Root(
            self.layers, self.folder, environment, self.stage.user, self.stage.workdir, upper,
            mounts=mounts, hostname=values.get("hostname", name), network={},
            tmpfs=values.get("tmpfs", ()), is_read_only=values.get("read_only", False),
            has_capabilities=values.get("cap_drop") != ["ALL"], shm_size=values.get("shm_size", "64m"),
        )  # fmt: skip


def tail(log: Path, lines: int = 30) -> str:
    """The last lines of a log."""
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])


def _ip(arguments: str) -> None:
    subprocess.run(["ip", *shlex.split(arguments)], check=True)
