"""Hosts in network namespaces, each with its hostname, /dev/shm, /etc/hosts and sshd. Needs root."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

# .1 is this machine, the hosts follow; another one for each process, so that two can run at once.
NET = f"10.177.{os.getpid() % 256}"
PROGRAMS = ("ip", "nsenter", "unshare", "/usr/sbin/sshd", "ssh-keygen", "ssh")


@dataclass(frozen=True)
class Machine:
    """A running host."""

    name: str
    address: str
    pid: int  # of its first process
    link: str  # this machine's end of its cable

    @property
    def enter(self) -> tuple[str, ...]:
        """The prefix of a command that shall run there."""
        return ("nsenter", f"--target={self.pid}", "--net", "--uts", "--mount", "--")

    def processes(self) -> list[int]:
        """All its processes: those with its hostname's namespace."""
        mine, found = os.readlink(f"/proc/{self.pid}/ns/uts"), []
        for place in Path("/proc").iterdir():
            if place.name.isdigit():
                with suppress(OSError):
                    if os.readlink(place / "ns" / "uts") == mine:
                        found.append(int(place.name))
        return found

    def cut_the_power(self) -> None:
        """Nothing that it sends arrives any more, and all its processes end."""
        if Path("/sys/class/net", self.link).exists():  # not if its power was cut before
            _ip("link", "set", self.link, "down")
        with suppress(OSError):  # its first process is the last one
            while len(others := [pid for pid in self.processes() if pid != self.pid]) > 0:
                for pid in others:
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)


def trouble() -> str | None:
    """Why there can be no hosts here; None: there can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    for program in PROGRAMS:
        if subprocess.run(["sh", "-c", f"command -v {program}"], capture_output=True).returncode:
            return f"{program} is not installed"
    done = subprocess.run(["unshare", "--net", "--uts", "--mount", "true"], capture_output=True, text=True)
    return done.stderr.strip() if done.returncode else None


@contextmanager
def machines(names: Sequence[str], folder: Path) -> Iterator[dict[str, Machine]]:
    """The hosts by name, on one bridge with this machine; `folder` gets their files and `bin/ssh`."""
    bridge = f"made{os.getpid() % 100000}"
    processes: list[subprocess.Popen[bytes]] = []
    found: dict[str, Machine] = {}
    lines = [f"{NET}.{n} {name}\n" for n, name in enumerate(("login", *names), 1)]
    (folder / "hosts").write_text("127.0.0.1 localhost\n" + "".join(lines))
    _ssh(folder)
    _ip("link", "add", bridge, "type", "bridge")
    try:
        _ip("address", "add", f"{NET}.1/24", "dev", bridge)
        _ip("link", "set", bridge, "up")
        for n, name in enumerate(names, 2):
            processes.append(
                subprocess.Popen(
                    ["unshare", "--net", "--uts", "--mount", "--propagation=private", "sh", "-c",
                     'hostname "$1" && mount -t tmpfs -o size=1g shm /dev/shm '
                     '&& mount --bind "$2" /etc/hosts '
                     "&& ip link set lo up && mkdir -p /run/sshd && echo ready "
                     '&& read -r _ && exec /usr/sbin/sshd -D -f "$3"',
                     "sh", name, str(folder / "hosts"), str(folder / "sshd_config")],
                    stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                )
            )  # fmt: skip
            process = processes[-1]
            assert process.stdout is not None and process.stdin is not None
            assert process.stdout.readline() == b"ready\n"
            link = f"{bridge}-{n}"[:15]
            _ip("link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", str(process.pid))
            _ip("link", "set", link, "master", bridge, "up")
            found[name] = Machine(name, f"{NET}.{n}", process.pid, link)
            inside = [*found[name].enter, "ip"]
            subprocess.run([*inside, "address", "add", f"{NET}.{n}/24", "dev", "eth0"], check=True)
            subprocess.run([*inside, "link", "set", "eth0", "up"], check=True)
            process.stdin.write(b"\n")
            process.stdin.close()
        yield found
    finally:
        for machine in found.values():
            with suppress(OSError):
                machine.cut_the_power()
        for process in processes:
            process.kill()
            process.wait()
        for link in (*(machine.link for machine in found.values()), bridge):
            subprocess.run(["ip", "link", "delete", link], capture_output=True)


def _ssh(folder: Path) -> None:
    """Keys and configurations, and an ssh that uses them."""
    for key in ("host", "user"):
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / key)]
        subprocess.run(command, check=True)
    server: Mapping[str, object] = {
        "Port": 22, "HostKey": folder / "host", "AuthorizedKeysFile": folder / "user.pub", "PidFile": "none",
        "StrictModes": "no", "UsePAM": "no", "PermitRootLogin": "prohibit-password",
    }  # fmt: skip
    client = {
        "IdentityFile": folder / "user", "StrictHostKeyChecking": "no", "UserKnownHostsFile": "/dev/null",
        "LogLevel": "ERROR",
    }  # fmt: skip
    (folder / "sshd_config").write_text("".join(f"{name} {value}\n" for name, value in server.items()))
    (folder / "ssh_config").write_text("".join(f"{name} {value}\n" for name, value in client.items()))
    (folder / "bin").mkdir()
    ssh = folder / "bin" / "ssh"
    ssh.write_text(f'#!/bin/sh\nexec /usr/bin/ssh -F {folder}/ssh_config "$@"\n')
    ssh.chmod(0o755)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


def wait_for_sshd(machine: Machine, seconds: float = 30) -> None:
    """Until it answers on port 22."""
    end = time.monotonic() + seconds
    while subprocess.run([*machine.enter, "sh", "-c", "ss -ltn | grep -q :22"]).returncode:
        if time.monotonic() > end:
            raise TimeoutError(f"sshd of {machine.name}")
        time.sleep(0.1)
