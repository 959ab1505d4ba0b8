"""The logs of the service's processes, which are cut while these write."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from flows.service import state
from flows.service.programs import POSTGRES
from made_core.settings import settings

log = logging.getLogger("made.supervisor")
LOG_BYTES = 64 << 20  # of a log, before it is cut
PART_BYTES = 1 << 20  # copied at a time


def path_of(name: str) -> Path:
    """The log of a process; PostgreSQL's is beside its data."""
    return settings().home_path / "postgres" / "server.log" if name == POSTGRES else state.log_path(name)


def rotate_all(names: Iterable[str]) -> None:
    """Cuts the logs of these processes that have grown too large."""
    for name in names:
        try:
            rotate(path_of(name))
        except OSError as error:  # a full disk: the log stays
            log.warning("the log of %s cannot be cut: %s", name, error)


def rotate(path: Path, limit: int = LOG_BYTES) -> bool:
    """Moves the content of a log of more than `limit` bytes to `<name>.log.1`. Returns whether it did.

    Its process goes on writing to the same file, so the log is copied, then emptied: the process must append
    (O_APPEND). A pipe would end with the supervisor, which its programs outlive. What is written between the
    last read and the cut is lost: a few lines of a process that does nothing but write.

    Raises:
        OSError: the copy cannot be written; the log stays as it is.
    """
    with suppress(FileNotFoundError):
        if path.stat().st_size <= limit:
            return False
        # The earlier copy is overwritten in place: on a full disk its space is what there is.
        with path.open("rb+") as grown, path.with_suffix(".log.1").open("wb") as copy:
            for _ in range(2):  # then what was written meanwhile; not to its end, which a writer may move on
                left = os.fstat(grown.fileno()).st_size - grown.tell()
                while left > 0 and (part := grown.read(min(left, PART_BYTES))):
                    copy.write(part)
                    left -= len(part)
                copy.flush()
            grown.truncate(0)
        return True
    return False
