"""A root folder made of layers, as a container has one, and commands in it. Needs root and overlayfs.

Commands see the machine's network and certificates, as the steps of a build do that an engine runs with the
host's proxy settings.
"""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
INSIDE = "/run/certificates.crt"
# The names under which pip, uv, and OpenSSL's users look for certificates.
CERTIFICATE_NAMES = ("SSL_CERT_FILE", "PIP_CERT", "REQUESTS_CA_BUNDLE")


@dataclass(frozen=True)
class Layer:
    """What one step added."""

    title: str
    folder: Path

    @property
    def size(self) -> int:
        """Bytes."""
        done = subprocess.run(["du", "-sb", str(self.folder)], check=True, capture_output=True, text=True)
        return int(done.stdout.split()[0])


@dataclass(frozen=True)
class Mount:
    """A file or folder that is seen at `target`: of this machine, or `source` in other layers."""

    source: Path
    target: str
    layers: tuple[Layer, ...] = ()
    is_read_only: bool = False


@dataclass(frozen=True)
class Root:
    """A root folder.

    Attributes:
        layers: lowest first.
        folder: for mount points; may be shared.
        upper: what commands write is kept here; None: it is gone when the command ends.
        copies: copied into the root before the command, as COPY does.
        mounts: mounted while the command runs.
        user: as number:number.
        tmpfs: folders in memory, mounted as an engine does.
        is_read_only: whether only mounts can be written.
        has_capabilities: whether programs may gain privileges.
    """

    layers: tuple[Layer, ...]
    folder: Path
    environment: Mapping[str, str]
    user: str = "0:0"
    workdir: str = "/"
    upper: Path | None = None
    copies: Sequence[Mount] = ()
    mounts: Sequence[Mount] = ()
    hostname: str = "container"
    tmpfs: Sequence[str] = ()
    is_read_only: bool = False
    has_capabilities: bool = True
    shm_size: str = "64m"  # an engine's default
    network: Mapping[str, str] = field(default_factory=lambda: network())

    def run(self, command: Sequence[str]) -> None:
        """Runs a command; without one, only makes the copies. Raises CalledProcessError if it fails."""
        subprocess.run(self.argv(command), check=True, stdin=subprocess.DEVNULL)

    def argv(self, command: Sequence[str]) -> list[str]:
        """What runs the command: mounts and processes are in namespaces of their own, gone when it ends."""
        work = self.folder / "mounts"
        root = work / "root"
        upper = self.upper or work / "upper"
        scratch = work / "scratch" if self.upper is None else self.upper.with_name(f"{self.upper.name}.work")
        lines = ["set -eu", f"mkdir -p {work}", f"mount -t tmpfs tmpfs {work}",
                 f"mkdir -p {root} {upper} {scratch}",
                 overlay(self.layers, upper, scratch, root)]  # fmt: skip
        for number, copy in enumerate(self.copies):
            lines += _found(copy, work / f"copy{number}", f"{root}{copy.target}", _COPY)
        if command:
            lines += [
                f"mkdir -p {root}{self.workdir}",
                f"mount -t proc proc {root}/proc",
                f"mount --rbind /dev {root}/dev",
                f"mount -t tmpfs -o mode=1777,size={self.shm_size} tmpfs {root}/dev/shm",
                *(f"mount -t tmpfs -o mode=1777,noexec,nosuid,nodev tmpfs {root}{at}" for at in self.tmpfs),
            ]
            given = (Mount(CERTIFICATES, INSIDE), Mount(Path("/etc/resolv.conf"), "/etc/resolv.conf"))
            for number, mount in enumerate((*given, *self.mounts)):
                lines += _found(mount, work / f"mount{number}", f"{root}{mount.target}", _MOUNT)
                if mount.is_read_only:
                    lines.append(f"mount -o remount,bind,ro {root}{mount.target}")
            values = {**self.environment, **self.network}
            words = " ".join(f"{name}={shlex.quote(value)}" for name, value in values.items())
            inner = f"cd {shlex.quote(self.workdir)}; exec {shlex.join(command)}"
            enter = f"chroot {root} {shlex.join(self.become())} /bin/sh -c {shlex.quote(inner)}"
            if self.is_read_only:
                lines.append(f"mount -o remount,ro {root}")
            lines += [f"hostname {shlex.quote(self.hostname)}", f"exec env -i {words} {enter}"]
        spaces = ["--mount", "--propagation", "slave", "--pid", "--fork", "--kill-child", "--uts", "--ipc"]
        return ["unshare", *spaces, "/bin/sh", "-c", "\n".join(lines)]

    def become(self) -> list[str]:
        """What runs a command as the user."""
        user, group = self.user.split(":") if ":" in self.user else (self.user, self.user)
        words = ["setpriv", f"--reuid={user}", f"--regid={group}", "--clear-groups"]
        if not self.has_capabilities:
            words += ["--inh-caps=-all", "--bounding-set=-all", "--no-new-privs"]
        return words


def overlay(layers: Sequence[Layer], upper: Path, scratch: Path, root: Path) -> str:
    """The command that mounts the layers at `root`; what is written goes to `upper`."""
    options = f"lowerdir={_stack(layers)},upperdir={upper},workdir={scratch}"
    return f"mount -t overlay overlay -o {shlex.quote(options)} {root}"


# COPY: a folder's content goes into the target, a file to it, or into it where it ends with a slash or a dot.
_COPY = """if [ -d {source} ]; then mkdir -p {place} && cp -a {source}/. {place}/
else case {place} in
*/|*/.) mkdir -p {place} && cp -a {source} {place}/;;
*) mkdir -p $(dirname {place}) && cp -a {source} {place};;
esac; fi"""
_MOUNT = """if [ -d {source} ]; then mkdir -p {place}
else mkdir -p $(dirname {place}) && touch {place}; fi
mount --bind {source} {place}"""


def network() -> dict[str, str]:
    """The certificates and proxies of this machine, for commands that download."""
    names = ("http_proxy", "https_proxy", "no_proxy")
    proxies = {name: os.environ[name] for name in names if name in os.environ}
    return {**dict.fromkeys(CERTIFICATE_NAMES, INSIDE), "UV_SYSTEM_CERTS": "true", **proxies}


def _stack(layers: Sequence[Layer]) -> str:
    return ":".join(str(layer.folder) for layer in reversed(layers))


def _found(mount: Mount, point: Path, place: str, do: str) -> list[str]:
    """Lines that make the source of a mount available and do something with it."""
    if not mount.layers:
        return [do.format(source=mount.source, place=place)]
    if len(mount.layers) == 1:
        shown = f"mount --bind {mount.layers[0].folder} {point}"
    else:
        shown = f"mount -t overlay overlay -o {shlex.quote(f'lowerdir={_stack(mount.layers)}')} {point}"
    inside = point / str(mount.source).lstrip("/")
    return [f"mkdir -p {point}", shown, do.format(source=inside, place=place)]
