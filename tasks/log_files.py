"""The log files of a run's processes, in a folder that runs and hosts may share."""

from __future__ import annotations

import fcntl
import logging
import os
import re
import socket
import stat
import time
from contextlib import suppress
from pathlib import Path

KEPT_DAYS = 30  # after its last line, a process's file is removed by the next run
FILE = re.compile(r"(?:worker|run)-.+-\d+\.log")  # the names that `open_log` gives


def open_log(folder: str | None, role: str = "worker") -> None:
    """Adds a log file in `folder` to this process, once; None: log to Prefect only.

    The file is locked while the process lives, so that no run on another host removes it.
    """
    logger = logging.getLogger("prefect")
    if folder is None or any(isinstance(h, logging.FileHandler) for h in logger.handlers):
        return
    Path(folder).mkdir(parents=True, exist_ok=True)
    name = f"{role}-{socket.gethostname()}-{os.getpid()}.log"
    handler = logging.FileHandler(Path(folder) / name, encoding="utf-8")
    assert handler.stream is not None  # without `delay` it is open
    with suppress(OSError):  # where files cannot be locked, `prune` removes none
        fcntl.flock(handler.stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)


def prune(folder: str | None, days: float = KEPT_DAYS) -> int:
    """Removes this user's log files without a line for `days` whose processes have ended; returns how many.

    A folder that cannot be read, or does not exist, has none.
    """
    if folder is None:
        return 0
    removed, before = 0, time.time() - days * 24 * 3600
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if FILE.fullmatch(entry.name):
                with suppress(OSError):  # a process writes it, or another run has removed it
                    removed += _removed(entry.path, before)
    return removed


def _removed(path: str, before: float) -> bool:
    """Whether the file was old, and so was removed. Raises OSError if a process has it."""
    descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        facts = os.fstat(descriptor)
        if not stat.S_ISREG(facts.st_mode) or facts.st_uid != os.geteuid() or facts.st_mtime >= before:
            return False
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.unlink(path)
        return True
    finally:
        os.close(descriptor)
