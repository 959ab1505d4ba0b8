"""Runs a Dockerfile's steps without an engine: each step is a layer of overlayfs over a folder by debootstrap.

Needs root, debootstrap and a Debian mirror. The steps see the machine's network and certificates, as the
steps of a build do that an engine runs with the host's proxy settings.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.containers.dockerfile import Stage, Step

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
        """Bytes, each file counted once."""
        done = subprocess.run(["du", "-sb", str(self.folder)], check=True, capture_output=True, text=True)
        return int(done.stdout.split()[0])


@dataclass
class Builder:
    """Builds stages in `folder`. `context`: the folder that COPY reads; `cache`: kept between builds."""

    folder: Path
    context: Path
    cache: Path
    built: dict[str, list[Layer]] = field(default_factory=dict)  # by stage, lowest first

    def base(self, suite: str) -> Layer:
        """The base image: Debian's minimal system, made once per cache."""
        root = self.cache / suite
        if not (root / "etc" / "debian_version").exists():
            fresh = self.cache / f"{suite}.new"
            shutil.rmtree(fresh, ignore_errors=True)
            fresh.mkdir(parents=True)
            subprocess.run(["debootstrap", "--variant=minbase", suite, str(fresh)],
                           check=True, stdout=subprocess.DEVNULL)  # fmt: skip
            fresh.rename(root)
        return Layer(f"FROM debian:{suite}-slim", root)

    def build(self, stage: Stage) -> list[Layer]:
        """Runs the steps of a stage; returns its layers, those of its parent first."""
        if stage.parent in self.built:
            layers = list(self.built[stage.parent])
        else:
            image, _, tag = stage.parent.partition(":")
            if image != "debian":
                raise ValueError(f"base image {stage.parent}: expected debian:SUITE-slim")
            layers = [self.base(tag.removesuffix("-slim"))]
        for number, step in enumerate(stage.steps):
            upper = self.folder / f"{len(self.built)}.{number}"
            upper.mkdir(parents=True)
            copies = self._copies(step) if step.kind == "COPY" else []
            command = [] if copies else ["/bin/sh", "-c", step.value]
            self.enter(layers, command, upper=upper, copies=copies, binds=self._binds(step),
                       environment={**step.environment, **_network()},
                       user=step.user, workdir=step.workdir)  # fmt: skip
            layers.append(Layer(step.title, upper))
        self.built[stage.name] = layers
        return layers

    def _copies(self, step: Step) -> list[tuple[Sequence[Layer] | Path, str, str]]:
        *sources, target = shlex.split(step.value)
        found: Sequence[Layer] | Path = self.built[step.source_stage] if step.source_stage else self.context
        inside = os.path.normpath(os.path.join(step.workdir, target))
        return [(found, source, inside) for source in sources]

    def _binds(self, step: Step) -> list[tuple[Sequence[Layer] | Path, str, str]]:
        binds: list[tuple[Sequence[Layer] | Path, str, str]] = []
        for mount in step.mounts:
            if mount["type"] == "cache":
                kept = self.cache / "cache" / mount["target"].strip("/").replace("/", "-")
                kept.mkdir(parents=True, exist_ok=True)
                binds.append((kept, ".", mount["target"]))
            else:
                binds.append((self.built[mount["from"]], mount["source"], mount["target"]))
        return binds

    def enter(
        self,
        layers: Sequence[Layer],
        command: Sequence[str],
        *,
        upper: Path | None = None,
        copies: Sequence[tuple[Sequence[Layer] | Path, str, str]] = (),
        binds: Sequence[tuple[Sequence[Layer] | Path, str, str]] = (),
        environment: Mapping[str, str],
        user: str,
        workdir: str,
    ) -> None:
        """Runs a command in the root that the layers make. Raises CalledProcessError if it fails."""
        subprocess.run(
            self.argv(layers, command, upper=upper, copies=copies, binds=binds,
                      environment=environment, user=user, workdir=workdir),
            check=True, stdin=subprocess.DEVNULL,
        )  # fmt: skip

    def argv(
        self,
        layers: Sequence[Layer],
        command: Sequence[str],
        *,
        upper: Path | None = None,
        copies: Sequence[tuple[Sequence[Layer] | Path, str, str]] = (),
        binds: Sequence[tuple[Sequence[Layer] | Path, str, str]] = (),
        environment: Mapping[str, str],
        user: str,
        workdir: str,
    ) -> list[str]:
        """The command line that `enter` runs: mounts in a namespace of their own, gone when it ends."""
        work = self.folder / "mounts"
        root, scratch, spare = work / "root", work / "work", work / "upper"
        lines = ["set -eu", f"mkdir -p {work}", f"mount -t tmpfs tmpfs {work}",
                 f"mkdir -p {root} {spare} {work}/lower"]  # fmt: skip
        top = spare if upper is None else upper
        if upper is not None:
            scratch = upper.with_name(f"{upper.name}.work")
        lines += [f"mkdir -p {scratch}", _overlay(layers, root, top, scratch)]
        for number, (found, source, target) in enumerate((*copies, *binds)):
            if isinstance(found, Path):
                inside = found / source
            else:
                lower = f"{work}/lower/{number}"
                lines += [f"mkdir -p {lower}", _read_only(found, Path(lower))]
                inside = Path(lower) / source.lstrip("/")
            place = f"{root}{target}"
            if number < len(copies):
                lines += [_copy(inside, source, place, target)]
            else:
                lines += [f"mkdir -p {place}", f"mount --bind {inside} {place}"]
        if command:
            lines += [f"mkdir -p {root}{workdir} {root}/run {root}/dev/shm", f"mount -t proc proc {root}/proc",
                      f"mount --rbind /dev {root}/dev",
                      f"touch {root}{INSIDE} {root}/etc/resolv.conf {root}/etc/hosts",
                      f"mount --bind {CERTIFICATES} {root}{INSIDE}",
                      f"mount --bind /etc/resolv.conf {root}/etc/resolv.conf",
                      f"mount --bind /etc/hosts {root}/etc/hosts"]  # fmt: skip
            given = " ".join(f"{name}={shlex.quote(value)}" for name, value in environment.items())
            words = shlex.join(command)
            inner = f"cd {shlex.quote(workdir)}; exec {words}"
            account = user if ":" in user else f"{user}:{user}"
            lines += [f"exec env -i {given} chroot --userspec={account} {root} /bin/sh -c {shlex.quote(inner)}"]
        return ["unshare", "--mount", "--propagation", "slave", "/bin/sh", "-c", "\n".join(lines)]


def _overlay(layers: Sequence[Layer], root: Path, upper: Path, scratch: Path) -> str:
    lower = ":".join(str(layer.folder) for layer in reversed(layers))
    options = f"lowerdir={lower},upperdir={upper},workdir={scratch}"
    return f"mount -t overlay overlay -o {shlex.quote(options)} {root}"


def _read_only(layers: Sequence[Layer], at: Path) -> str:
    if len(layers) == 1:
        return f"mount --bind {layers[0].folder} {at}"
    lower = ":".join(str(layer.folder) for layer in reversed(layers))
    return f"mount -t overlay overlay -o {shlex.quote(f'lowerdir={lower}')} {at}"


def _copy(inside: Path, source: str, place: str, target: str) -> str:
    """COPY: a folder's content goes into the target, a file to it, or into it where it ends with a slash."""
    into = f"{place}/{Path(source).name}" if target.endswith((".", "/")) else place
    return (
        f"if [ -d {inside} ]; then mkdir -p {place} && cp -a {inside}/. {place}/; "
        f"else mkdir -p $(dirname {into}) && cp -a {inside} {into}; fi"
    )


def _network() -> dict[str, str]:
    """The certificates and proxies of this machine, for steps that download."""
    proxies = {name: os.environ[name] for name in ("http_proxy", "https_proxy", "no_proxy") if name in os.environ}
    return {**dict.fromkeys(CERTIFICATE_NAMES, INSIDE), "UV_SYSTEM_CERTS": "true", **proxies}
