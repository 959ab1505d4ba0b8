"""A process that outlives a node's agent, however that ends, and leaves nothing of it behind.

The scheduler may kill the agent at any time. The janitor is forked before anything starts, in a session of
its own. When the agent has ended, it kills what the agent started and removes its folders. A job's own
servers (`flows/pbs/servers.py`) have one, too.
"""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

MARK = "MADE_CLUSTER_NODE"  # in the environment of all that a node's agent starts
PATIENCE = 5.0  # seconds: a process that is writing a core file dies late


class Janitor:
    """Watches over the process that makes it.

    Args:
        mark: the value of MARK by which it finds the processes.
        folder: removed at the end; None: nothing is.
        last: called at the end, in the janitor.
    """

    def __init__(self, mark: str, folder: Path | None, last: Callable[[], None]) -> None:
        alive, self._held = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.setsid()
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                signal.signal(number, signal.SIG_IGN)
            try:
                _close_all(but=(alive,))
                os.read(alive, 1)  # returns when the last holder of the other end has died
                clean(mark)
                if folder is not None:
                    shutil.rmtree(folder, ignore_errors=True)
                last()
            finally:
                os._exit(0)
        os.close(alive)

    def finish(self) -> None:
        """Lets it do its work now, and waits for it."""
        os.close(self._held)
        with suppress(ChildProcessError):
            os.waitpid(self.pid, 0)


def _close_all(but: Sequence[int]) -> None:
    """Closes pipes and terminals of the agent, and its end of the janitor's pipe; keeps lock files."""
    for name in os.listdir("/proc/self/fd"):
        number = int(name)
        with suppress(OSError):
            target = os.readlink(f"/proc/self/fd/{number}")
            if number not in but and not target.endswith(".lock"):
                os.close(number)


def clean(mark: str) -> None:
    """Kills every process with the mark in its environment, except this one."""
    end = time.monotonic() + PATIENCE
    while found := marked(mark):
        for pid in found:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if time.monotonic() > end:
            break
        time.sleep(0.05)


def marked(mark: str) -> list[int]:
    """The processes of this user, except this one, that carry the mark."""
    wanted, found = f"{MARK}={mark}".encode(), []
    for place in Path("/proc").iterdir():
        if place.name.isdigit() and int(place.name) != os.getpid():
            with suppress(OSError):  # ended, or of another user
                if wanted in (place / "environ").read_bytes().split(b"\0"):
                    found.append(int(place.name))
    return found
