"""A block of ports of this host, claimed by `flock`: it is free again when its last holder has died."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from fcntl import LOCK_EX, LOCK_NB, flock
from pathlib import Path

from made_core.errors import MadeError

FIRST, LAST = 10240, 32768  # above the services, below the ports that Linux gives to outgoing connections
BLOCK = 256
FIXED = 16  # ports of a block that are not for Ray's workers
FOLDER = Path("/tmp")


@dataclass
class Block:
    """Claimed ports [first, stop). `release` frees them, as does the death of all processes that hold it."""

    first: int
    stop: int
    _locks: dict[Path, int]  # descriptors, which a forked process shares

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.first, self.stop))

    @property
    def workers(self) -> tuple[int, int]:
        """The lowest and the highest port of Ray's workers."""
        return self.first + FIXED, self.stop - 1

    def release(self) -> None:
        """Frees the ports and removes the lock files. The caller is the last process that holds them."""
        for path, lock in self._locks.items():
            path.unlink(missing_ok=True)
            os.close(lock)
        self._locks.clear()


def claim(address: str, workers: int, seed: int = 0, folder: Path = FOLDER) -> Block:
    """Claims a block whose ports are all free at an address.

    Args:
        address: IPv4 address of this host.
        workers: how many of Ray's workers may run at once.
        seed: where the search begins, so that jobs which start together seldom look at one block.
        folder: of the lock files, on a disk of this host.

    Raises:
        MadeError: no block is free.
    """
    blocks = -(-(workers + FIXED) // BLOCK)
    size = blocks * BLOCK
    starts = range(FIRST, LAST - size + 1, size)
    for i in range(len(starts)):
        first = starts[(seed + i) % len(starts)]
        locks: dict[Path, int] = {}
        for n in range(first // BLOCK, (first + size) // BLOCK):
            path = folder / f"made-ports-{os.geteuid()}-{n}.lock"
            lock = _lock(path)
            if lock is None:
                break
            locks[path] = lock
        block = Block(first, first + size, locks)
        if len(locks) == blocks and all(_is_free(address, port) for port in block):
            return block
        block.release()
    raise MadeError(f"no {size} consecutive ports between {FIRST} and {LAST} are free at {address}")


def _lock(path: Path) -> int | None:
    """A descriptor that holds the lock of `path`, None if another process does."""
    while True:
        lock = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            flock(lock, LOCK_EX | LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            return None
        with suppress(FileNotFoundError):
            if path.stat().st_ino == os.fstat(lock).st_ino:
                return lock
        os.close(lock)  # its holder has just removed the file: that lock guards nothing


def _is_free(address: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError:
            return False
    return True
