"""A site: its hosts and limits, and the folder in which the commands keep the jobs."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from fcntl import LOCK_EX, flock
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
FOLDER = "MADE_TEST_PBS"  # in the environment of the commands: the site's folder
COMMANDS = ("qsub", "qdel", "qstat", "qselect", "pbsdsh", "pbs_tmrsh")
SERVER = "pbs"
KILL_DELAY = 10.0  # seconds from SIGTERM to SIGKILL: OpenPBS's default


@dataclass(frozen=True)
class Host:
    """An execution host."""

    name: str  # as in $PBS_NODEFILE; must resolve
    ncpus: int = 4
    ngpus: int = 0
    enter: tuple[str, ...] = ()  # prefix of a command that shall run on this host, such as nsenter ...


@dataclass(frozen=True)
class Site:
    """Hosts and limits."""

    folder: Path
    hosts: tuple[Host, ...]
    queues: tuple[str, ...] = ("workq", "gpu")  # the first is the default
    kill_delay: float = KILL_DELAY
    # In OpenPBS the script is a child of a login shell, which SIGTERM ends at once unless it ignores it;
    # with the login shell the job ends, and everything is killed.
    login_shell_dies: bool = False
    history: bool = True  # job_history_enable, which OpenPBS switches off unless an administrator sets it
    variables: Mapping[str, str] = field(default_factory=dict)  # of every task, as a hook may set them

    def install(self) -> Path:
        """Writes the site and its commands; returns the folder of the commands, for PATH."""
        (self.folder / "jobs").mkdir(parents=True, exist_ok=True)
        bin_ = self.folder / "bin"
        bin_.mkdir(exist_ok=True)
        values = {**asdict(self), "folder": str(self.folder), "variables": dict(self.variables)}
        (self.folder / "pbs.conf").write_text(f"PBS_EXEC={self.folder}\nPBS_SERVER={SERVER}\n")
        (self.folder / "site.json").write_text(json.dumps(values))
        for name in COMMANDS:
            program = bin_ / name
            program.write_text(
                f"#!{sys.executable} -S\n"
                f"import os, sys\n"
                f"os.environ[{FOLDER!r}] = {str(self.folder)!r}\n"
                f"sys.path[:0] = [{str(ROOT)!r}]\n"
                f"from tests.support.pbs.{name} import main\n"
                f"sys.exit(main(sys.argv[1:]))\n"
            )
            program.chmod(0o755)
        return bin_

    def host(self, name: str) -> Host:
        """The host with this name."""
        return next(host for host in self.hosts if host.name == name)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """One process at a time changes the jobs."""
        with (self.folder / "lock").open("a") as gate:
            flock(gate, LOCK_EX)
            yield


def here() -> Site:
    """The site of this command."""
    folder = Path(os.environ[FOLDER])
    values = json.loads((folder / "site.json").read_text())
    hosts = tuple(Host(**{**host, "enter": tuple(host["enter"])}) for host in values["hosts"])
    return Site(**{**values, "folder": folder, "hosts": hosts, "queues": tuple(values["queues"])})


def fail(command: str, text: str, code: int) -> int:
    """Prints an error as the commands do; returns the exit code. PBS's error numbers are cut to a byte."""
    print(f"{command}: {text}" if text else command, file=sys.stderr)
    return code % 256


def words(arguments: Sequence[str]) -> str:
    """Arguments for a message."""
    return " ".join(arguments)
