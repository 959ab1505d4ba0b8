"""What a job may use of a node: its address, CPUs, GPUs and shared memory."""

from __future__ import annotations

import fcntl
import ipaddress
import os
import re
import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from made_core.errors import UserError

OBJECT_STORE_MOST = 8 << 30  # made sends little through Ray's object store
OBJECT_STORE_LEAST = 80 << 20  # Ray's own minimum
OBJECT_STORE_ON_DISK = 256 << 20  # Ray takes its temporary folder for at most 10 GB
SIOCGIFADDR = 0x8915
INTERFACE, OBJECT_STORE = "MADE_INTERFACE", "MADE_OBJECT_STORE_BYTES"
CPUS, GPUS = "MADE_NODE_CPUS", "MADE_NODE_GPUS"


@dataclass(frozen=True)
class Share:
    """A job's CPUs and GPUs on one node; None: not known, all that the process sees."""

    cpus: int | None = None
    gpus: int | None = None


def shares(exec_vnode: str) -> dict[str, Share]:
    """The job's share of each host, from PBS's `exec_vnode`: `(n1:ncpus=24:ngpus=4)+(n2[0]:ncpus=8)`.

    A host may have several chunks and virtual nodes (`name[index]`); they are added up.
    """
    found: dict[str, Share] = {}
    for part in re.split(r"[+()]+", exec_vnode):
        if part:
            name, *items = part.split(":")
            values = dict(item.partition("=")[::2] for item in items)
            host = name.partition("[")[0]
            before = found.get(host, Share(0, 0))
            found[host] = Share(
                (before.cpus or 0) + int(values.get("ncpus", 0)),
                (before.gpus or 0) + int(values.get("ngpus", 0)),
            )
    return found


def share_of(host: str, known: Mapping[str, Share]) -> Share:
    """The share of a host, whose name may be given with or without its domain."""
    short = {name.partition(".")[0]: share for name, share in known.items() if not _is_address(name)}
    return known.get(host) or short.get(host.partition(".")[0]) or Share()


def cpus(share: Share, environment: Mapping[str, str] = os.environ) -> int:
    """CPUs for Ray: as set by hand, as the scheduler granted, or all that this process may run on.

    Raises:
        UserError: a variable is not a number.
    """
    if text := environment.get(CPUS):
        return _number(CPUS, text, "CPUs")
    if share.cpus:
        return share.cpus
    for name in ("NCPUS", "SLURM_CPUS_ON_NODE"):
        if text := environment.get(name):
            return _number(name, text, "CPUs")
    return len(os.sched_getaffinity(0))


def gpus(share: Share, environment: Mapping[str, str] = os.environ, proc: Path = Path("/proc")) -> int:
    """GPUs for Ray: as set by hand, or as the scheduler granted, but no more than are visible.

    Without a request the visible ones count: CUDA_VISIBLE_DEVICES, else all.

    Raises:
        UserError: MADE_NODE_GPUS is not a number.
    """
    if text := environment.get(GPUS):
        return _number(GPUS, text, "GPUs")
    listed = environment.get("CUDA_VISIBLE_DEVICES")
    visible = None if listed is None else sum(1 for one in listed.split(",") if one.strip() not in ("", "-1"))
    if share.gpus is not None:
        return share.gpus if visible is None else min(share.gpus, visible)
    if visible is not None:
        return visible
    found = proc / "driver" / "nvidia" / "gpus"
    return len(list(found.iterdir())) if found.exists() else 0


def object_store(environment: Mapping[str, str] = os.environ, shm: Path = Path("/dev/shm")) -> int:
    """Bytes for Ray's object store, within what /dev/shm has free and a third of the free memory.

    Where /dev/shm has no room for the smallest one, as in containers (64 MiB by default), Ray puts a store of
    this size into its temporary folder. made sends too little through it to notice.

    Raises:
        UserError: MADE_OBJECT_STORE_BYTES is not a number.
    """
    if text := environment.get(OBJECT_STORE):
        return _number(OBJECT_STORE, text, "bytes")
    state = os.statvfs(shm)
    room = int(0.8 * state.f_bavail * state.f_frsize)
    if room < OBJECT_STORE_LEAST:
        return OBJECT_STORE_ON_DISK
    return max(OBJECT_STORE_LEAST, min(room, _free_memory() // 3, OBJECT_STORE_MOST))


def _free_memory() -> int:
    text = Path("/proc/meminfo").read_text()
    found = re.search(r"MemAvailable:\s+(\d+) kB", text)
    return int(found[1]) << 10 if found else OBJECT_STORE_MOST


def address(name: str, peer: str | None, environment: Mapping[str, str] = os.environ) -> str:
    """The IPv4 address of this node that the other nodes reach.

    Args:
        name: of this node, as the scheduler calls it. An address is taken as it is.
        peer: another node of the job: the address that a packet to it would have. None: there is none.
        environment: MADE_INTERFACE chooses a network interface, such as ib0.

    Raises:
        UserError: the interface has no address, or a name is unknown.
    """
    if interface := environment.get(INTERFACE):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                asked = struct.pack("256s", interface.encode()[:15])
                return socket.inet_ntoa(fcntl.ioctl(probe, SIOCGIFADDR, asked)[20:24])
            except OSError as error:
                raise UserError(
                    f"{INTERFACE}={interface}: no such network interface with an IPv4 address on {name} "
                    f"({error.strerror}); there are {', '.join(n for _, n in socket.if_nameindex())}"
                ) from None
    if _is_address(name):
        return name
    try:
        if peer is not None:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
                probe.connect((peer, 9))  # sends nothing
                return str(probe.getsockname()[0])
        return socket.gethostbyname(name)
    except OSError as error:
        raise UserError(f"{peer or name}: its address is not known ({error.strerror or error})") from None


def _is_address(name: str) -> bool:
    try:
        ipaddress.IPv4Address(name)
    except ValueError:
        return False
    return True


def _number(name: str, text: str, what: str) -> int:
    """The value of a variable of the environment. Raises UserError."""
    if not text.strip().isdecimal():
        raise UserError(f"{name}={text}: expected a number of {what}, in digits")
    return int(text)
