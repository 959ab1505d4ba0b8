"""The records of jobs, a JSON file each, and the signals to their processes."""

from __future__ import annotations

import json
import os
import signal
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tests.support.pbs.site import SERVER, Site

QUEUED, RUNNING, EXITING, FINISHED = "Q", "R", "E", "F"
UNKNOWN_JOB, HISTORY_JOB, NO_HISTORY = 15001, 15139, 15140


@dataclass(frozen=True)
class Slot:
    """A chunk on its host."""

    host: str
    ncpus: int
    ngpus: int
    mpiprocs: int


@dataclass
class Job:
    """A job, from submission to history."""

    id: str
    name: str
    owner: str
    queue: str
    script: str  # the copy that qsub took; empty for an interactive job
    output: str  # path of the job's stdout
    error: str
    join: str
    select: str
    place: str
    walltime: float | None
    variables: dict[str, str]  # Variable_List
    state: str = QUEUED
    slots: list[Slot] = field(default_factory=list)
    comment: str = ""
    qtime: float = 0.0
    stime: float | None = None
    etime: float | None = None
    exit_status: int | None = None
    delete: str = ""  # set by qdel: "term" or "force"
    mom: int = 0  # process id of its mom
    interactive: bool = False

    @property
    def hosts(self) -> list[str]:
        """Its hosts, in order."""
        return list(dict.fromkeys(slot.host for slot in self.slots))


def folder(site: Site, job: str) -> Path:
    """The folder of a job."""
    return site.folder / "jobs" / job


def save(site: Site, job: Job) -> None:
    """Writes the record; readers never see half of it."""
    place = folder(site, job.id)
    part = place / f"job.{os.getpid()}.part"
    part.write_text(json.dumps(asdict(job)))
    part.rename(place / "job.json")


def load(site: Site, job: str) -> Job | None:
    """The record, None if there is no such job."""
    try:
        values = json.loads((folder(site, job) / "job.json").read_text())
    except FileNotFoundError:
        return None
    return Job(**{**values, "slots": [Slot(**slot) for slot in values["slots"]]})


def every(site: Site) -> list[Job]:
    """All jobs, in order of submission."""
    numbers = sorted(int(p.name.partition(".")[0]) for p in (site.folder / "jobs").iterdir())
    return [job for number in numbers if (job := load(site, f"{number}.{SERVER}")) is not None]


def full_id(text: str) -> str:
    """`12` and `12.pbs` are the same job."""
    return text if "." in text else f"{text}.{SERVER}"


def add_task(site: Site, job: str, host: str, session: int) -> int:
    """Records a task of the job; returns its number."""
    tasks = folder(site, job) / "tasks"
    tasks.mkdir(exist_ok=True)
    (tasks / str(session)).write_text(host)
    return len(list(tasks.iterdir()))


def sessions(site: Site, job: str, host: str | None = None) -> list[int]:
    """The sessions of the job's tasks, on one host or on all."""
    tasks = folder(site, job) / "tasks"
    found = tasks.iterdir() if tasks.exists() else ()
    return [int(task.name) for task in found if host is None or task.read_text() == host]


def processes(wanted: list[int]) -> list[int]:
    """The processes of sessions: what PBS finds without its cgroups hook."""
    found = []
    for place in Path("/proc").iterdir():
        if place.name.isdigit():
            with suppress(OSError, IndexError, ValueError):
                fields = (place / "stat").read_text().rpartition(")")[2].split()
                if int(fields[3]) in wanted and fields[0] != "Z":
                    found.append(int(place.name))
    return found


def kill(wanted: list[int], number: int) -> None:
    """Signals every process of the sessions."""
    for pid in processes(wanted):
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def lives(pid: int) -> bool:
    """Whether a process runs."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


TERM, KILL = int(signal.SIGTERM), int(signal.SIGKILL)
