"""Processes by identity: a process id may be that of another process after an exit or a reboot."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Collection, Iterator, Sequence
from functools import cache
from pathlib import Path

from pydantic import BaseModel, ConfigDict

POLL_SECONDS = 0.1
KILL_SECONDS = 10.0  # for the kernel to end a process after SIGKILL
FLOW_RUN = "PREFECT__FLOW_RUN_ID"  # in the environment of a flow run's processes
ENGINE = b"prefect.engine"  # in the command of a flow run's first process
MARK = "MADE_SERVICE"  # in the environment of every process of a service: the service's id


class Identity(BaseModel):
    """One process for all time: its id, when it started, and in which boot of the machine."""

    model_config = ConfigDict(frozen=True)

    pid: int
    started: int  # clock ticks since boot
    boot: str

    @property
    def is_alive(self) -> bool:
        """Whether the process runs. A zombie does not."""
        return self.boot == boot() and _started(self.pid) == self.started

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal if the process runs."""
        if self.is_alive:
            try:
                os.kill(self.pid, number)
            except ProcessLookupError:
                return


def identify(pid: int) -> Identity | None:
    """The identity of a running process."""
    started = _started(pid)
    return None if started is None else Identity(pid=pid, started=started, boot=boot())


def wait(process: Identity, seconds: float) -> bool:
    """Waits until the process has ended. Returns whether it has."""
    end = time.monotonic() + seconds
    while process.is_alive:
        _reap(process.pid)
        if time.monotonic() > end:
            return False
        time.sleep(POLL_SECONDS)
    return True


def end(process: Identity, seconds: float) -> bool:
    """Ends a process: SIGTERM, and SIGKILL after `seconds`. Returns whether SIGTERM was enough."""
    process.signal(signal.SIGTERM)
    process.signal(signal.SIGCONT)  # it may have been stopped
    if wait(process, seconds):
        return True
    process.signal(signal.SIGKILL)
    wait(process, KILL_SECONDS)
    return False


def end_all(every: Sequence[Identity], seconds: float) -> None:
    """Ends processes: SIGTERM to all of them, and SIGKILL to those that run `seconds` later."""
    for process in every:
        process.signal(signal.SIGTERM)
    until = time.monotonic() + seconds
    for process in every:
        if not wait(process, max(0.0, until - time.monotonic())):
            process.signal(signal.SIGKILL)
            wait(process, KILL_SECONDS)


def marked(mark: str) -> Iterator[tuple[Identity, dict[str, str]]]:
    """This user's running processes that inherited the environment of the service `mark`, and theirs."""
    for folder in Path("/proc").iterdir():
        if not folder.name.isdecimal() or int(folder.name) == os.getpid():
            continue
        try:
            text = (folder / "environ").read_text(encoding="utf-8", errors="replace")
        except OSError:  # ended meanwhile, or another user's
            continue
        variables = dict(line.partition("=")[::2] for line in text.split("\0"))
        if variables.get(MARK) == mark and (found := identify(int(folder.name))) is not None:
            yield found, variables


def runs(mark: str) -> dict[str, Identity]:
    """The processes of flow runs of the service `mark`, by the id of the flow run.

    Without Ray's processes, which inherit the id and outlive a killed flow for a while.
    """
    return {
        variables[FLOW_RUN]: process
        for process, variables in marked(mark)
        if FLOW_RUN in variables and ENGINE in _command(process.pid)
    }


def left_by(mark: str, runs: Collection[str]) -> list[Identity]:
    """The processes that belong to some flow runs of the service `mark`."""
    return [process for process, variables in marked(mark) if variables.get(FLOW_RUN) in runs]


@cache
def boot() -> str:
    """The id of this boot of the machine."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def _started(pid: int) -> int | None:
    """When a process started, in clock ticks since boot; None if it does not run."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()  # after the name, which may hold anything
    return None if fields[0] in "ZX" else int(fields[19])


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def _reap(pid: int) -> None:
    """Collects the exit status of an own child; nothing for the processes of others."""
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return
