"""The lock that a running server holds on `postgres.running`, beside its data.

The server's processes inherit the locked descriptor, so the kernel frees it with the last of them. Unlike a
process id, it is seen from other containers and PID namespaces of the host.
"""

from __future__ import annotations

import fcntl
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from made_core.errors import DatabaseError

LAST_CHILDREN = 10.0  # seconds that the children of a killed server may take to exit
LOOK = 0.1


def _file(data: Path) -> Path:
    return data.with_name("postgres.running")


def is_held(data: Path) -> bool:
    """Whether a server of this data runs, or its children have not exited yet."""
    if not _file(data).exists():
        return False
    with _file(data).open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


@contextmanager
def taken(data: Path) -> Iterator[int]:
    """The descriptor with the lock, for a server to inherit. Raises DatabaseError if a server has it."""
    with _file(data).open("a+") as file:
        end = time.monotonic() + LAST_CHILDREN
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > end:
                    raise DatabaseError(f"a PostgreSQL server with the data in {data} still runs") from None
            time.sleep(LOOK)
        yield file.fileno()


def joined(data: Path, path: Path) -> bool:
    """Whether a server that has the lock answers at its unix socket `path`; waits until it does or has ended.

    Raises:
        DatabaseError: it has the lock and does not answer.
    """
    end = time.monotonic() + LAST_CHILDREN
    while is_held(data):
        if _answers(path):
            return True
        if time.monotonic() > end:
            raise DatabaseError(
                f"a PostgreSQL server with the data in {data} runs in another container or PID namespace of "
                f"this host, or has not ended, and does not answer at {path}: share it, or end that server"
            )
        time.sleep(LOOK)
    return False


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(path)) == 0
