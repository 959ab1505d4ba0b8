"""compose.yaml's services as processes: commands, environments, mounts and health checks, read from the file.

Each service runs in the image's root, in a network namespace of its own on a bridge, under the name that the
others know. Needs root.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from compose_spec.models import ComposeSpecification

from tests.support.containers.dockerfile import Stage
from tests.support.containers.root import Layer, Mount, Root

VARIABLE = re.compile(r"\$\{(\w+)(?:(:?[-?])([^}]*))?\}")
SUBNET = "10.213.7"
POLL_SECONDS = 0.5


def load(path: Path, variables: Mapping[str, str]) -> tuple[ComposeSpecification, dict[str, Any]]:
    """The file with its variables filled in: checked against the specification, and as plain values.

    Raises ValueError for a variable without a value, a default or an error of its own.
    """
    parsed = yaml.safe_load(path.read_text(encoding="utf-8"))
    values: dict[str, Any] = {k: _filled(v, variables) for k, v in parsed.items() if not k.startswith("x-")}
    return ComposeSpecification.model_validate(values), values


def _filled(value: Any, variables: Mapping[str, str]) -> Any:
    """A YAML value with the variables in its strings filled in."""
    if isinstance(value, dict):
        return {k: _filled(v, variables) for k, v in value.items()}
    if isinstance(value, list):
        return [_filled(v, variables) for v in value]
    return VARIABLE.sub(lambda found: _value(found, variables), value) if isinstance(value, str) else value


def _value(found: re.Match[str], variables: Mapping[str, str]) -> str:
    name, operator, rest = found[1], found[2], found[3]
    if variables.get(name):
        return variables[name]
    if operator is None or operator.endswith("?"):
        raise ValueError(f"{name}: {rest or 'no value and no default'}")
    return rest


@dataclass
class Service:
    """A service that runs."""

    name: str
    values: dict[str, Any]
    namespace: str
    process: subprocess.Popen[bytes]
    log: Path


@dataclass
class Project:
    """The services of a compose file, on `layers`, the image of `stage`."""

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
                space, cable = self.namespace(name), f"{self.tag}v{number}"
                _ip(f"netns add {space}")
                _ip(f"link add {cable} type veth peer name eth0 netns {space}")
                _ip(f"link set {cable} master {bridge} up")
                _ip(f"-n {space} link set lo up")
                _ip(f"-n {space} addr add {SUBNET}.{number}/24 dev eth0")
                _ip(f"-n {space} link set eth0 up")
            yield
        finally:
            for name in self.values["services"]:
                subprocess.run(["ip", "netns", "del", self.namespace(name)], stderr=subprocess.DEVNULL)
            subprocess.run(["ip", "link", "del", bridge], stderr=subprocess.DEVNULL)

    def namespace(self, name: str) -> str:
        """The network namespace of a service."""
        return f"{self.tag}-{name}"

    def address(self, name: str) -> str:
        """The address of a service."""
        return f"{SUBNET}.{2 + list(self.values['services']).index(name)}"

    def up(self, seconds: float) -> None:
        """Starts the services of the default profile, each when those it depends on are as it asks."""
        (self.folder / "hosts").write_text(
            "127.0.0.1 localhost\n" + "".join(f"{self.address(n)} {n}\n" for n in self.values["services"])
        )
        for name in self.order():
            for other, wanted in self.values["services"][name].get("depends_on", {}).items():
                self.wait(other, wanted["condition"], seconds)
            self.start(name)
        for service in list(self.running):
            if "healthcheck" in service.values:
                self.wait(service.name, "service_healthy", seconds)

    def order(self) -> list[str]:
        """The services of the default profile, each behind those that it depends on."""
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
        values = self.values["services"][name]
        own = self.folder / name
        own.mkdir(parents=True, exist_ok=True)
        log = self.folder / f"{name}.log"
        argv = self._argv(name, [*values["entrypoint"], *values["command"]], own / "upper")
        with log.open("ab") as file:
            process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=file, stderr=file)
        self.running.append(Service(name, values, self.namespace(name), process, log))

    def wait(self, name: str, condition: str, seconds: float) -> None:
        """Waits until a service is healthy or has completed. Raises AssertionError with its log."""
        service = next(s for s in self.running if s.name == name)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            code = service.process.poll()
            if condition == "service_completed_successfully":
                if code == 0:
                    return
            elif code is None and self.is_healthy(service):
                return
            if code not in (None, 0) or (code == 0 and condition == "service_healthy"):
                break
            time.sleep(POLL_SECONDS)
        raise AssertionError(
            f"{name} is not {condition} (exit code {service.process.poll()}):\n{tail(service.log)}"
        )

    def is_healthy(self, service: Service) -> bool:
        """Runs the service's health check once."""
        kind, *command = service.values["healthcheck"]["test"]
        assert kind == "CMD"
        return self.run(service.name, command).returncode == 0

    def run(self, name: str, command: list[str]) -> subprocess.CompletedProcess[str]:
        """Runs a command beside a service: in its namespace, with its environment and mounts."""
        return subprocess.run(
            self._argv(name, command, None), stdin=subprocess.DEVNULL, capture_output=True, text=True
        )

    def down(self) -> list[str]:
        """Ends the services in reverse order with SIGTERM; returns those that had to be killed."""
        killed = []
        for service in reversed(self.running):
            child = _child(service.process.pid)
            if child is not None:
                os.kill(child, signal.SIGTERM)
            try:
                service.process.wait(timeout=seconds(service.values.get("stop_grace_period", "10s")))
            except subprocess.TimeoutExpired:
                killed.append(service.name)
                service.process.kill()
                service.process.wait()
        self.running.clear()
        return killed

    def _argv(self, name: str, command: list[str], upper: Path | None) -> list[str]:
        values = self.values["services"][name]
        environment = {
            **self.stage.environment,
            "HOME": "/home/made",
            **{k: str(v) for k, v in values["environment"].items()},
        }
        mounts = [
            Mount(self.base / self.values["secrets"][secret]["file"], f"/run/secrets/{secret}")
            for secret in values.get("secrets", [])
        ]
        for volume in values["volumes"]:
            source, target = volume.split(":")
            if source in self.values["volumes"]:
                folder = self.folder / "volumes" / source
                if not folder.exists():
                    folder.mkdir(parents=True)
                    os.chown(folder, *map(int, self.stage.user.split(":")))
                source = str(folder)
            mounts.append(Mount(Path(source), target))
        mounts.append(Mount(self.folder / "hosts", "/etc/hosts"))
        root = Root(
            self.layers, self.folder, environment, self.stage.user, self.stage.workdir, upper,
            mounts=mounts, hostname=values.get("hostname", name), network={},
        )  # fmt: skip
        return ["ip", "netns", "exec", self.namespace(name), *root.argv(command)]


def seconds(text: str) -> float:
    """Of `10s` or `1m`."""
    return float(text[:-1]) * {"s": 1, "m": 60}[text[-1]]


def tail(log: Path, lines: int = 30) -> str:
    """The last lines of a log."""
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])


def _child(pid: int) -> int | None:
    """The first process inside the namespace: `unshare --fork`'s child."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return None
    return int(children[0]) if children else None


def _ip(arguments: str) -> None:
    subprocess.run(["ip", *shlex.split(arguments)], check=True)
