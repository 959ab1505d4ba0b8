"""Processes that can be killed together with all processes that they started."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

FOLDER = "MADE_CHAOS_FOLDER"  # in the environment of workers; holds armed/, struck/ and done/
MARK = "MADE_CHAOS_PART"  # inherited by all processes of a part, including orphans


class Part:
    """A command that can be restarted; its output goes to one log."""

    def __init__(self, name: str, folder: Path, environment: Mapping[str, str]) -> None:
        self.name, self.log = name, folder / f"{name}.log"
        self._mark = f"{MARK}={folder}/{name}"
        self._environment = {**environment, MARK: f"{folder}/{name}"}
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, command: Sequence[str]) -> None:
        """Starts the command, even if other processes of this part are still running."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                command, env=self._environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip

    @property
    def ended(self) -> int | None:
        """The exit code; None: running or never started."""
        return None if self._process is None else self._process.poll()

    @property
    def pid(self) -> int:
        """The process id of the command."""
        assert self._process is not None
        return self._process.pid

    def kill(self) -> None:
        """Kills all processes of this part and waits until they have ended."""
        end = time.monotonic() + 20
        while pids := list(marked(self._mark)):
            for pid in pids:
                strike(pid)
            if time.monotonic() > end:
                raise TimeoutError(f"{self.name}: {pids} do not die")
            time.sleep(0.05)
        if self._process is not None:
            self._process.wait(20)
            self._process = None

    def find(self, *titles: str) -> list[int]:
        """The processes of this part whose command line starts with this text."""
        return [pid for pid, line in marked(self._mark).items() if line.startswith(titles)]


def marked(mark: str) -> dict[int, str]:
    """The command line of each process with the mark in its environment, by process id."""
    found, wanted = {}, mark.encode()
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                if wanted in (folder / "environ").read_bytes().split(b"\0"):
                    line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                    found[int(folder.name)] = line
            except OSError:  # ended, or of another user
                continue
    return found


def lives(pid: int) -> bool:
    """Whether the process is running; a zombie is not."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


def strike(pid: int) -> None:
    """Sends SIGKILL; ignores a process that has ended."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def tail(path: Path, lines: int) -> str:
    """The end of a log."""
    text = path.read_text(errors="replace") if path.exists() else ""
    return "\n".join(f"    {line}" for line in text.splitlines()[-lines:])
