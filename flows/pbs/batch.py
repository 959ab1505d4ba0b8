"""PBS's commands: qsub submits a job, qstat shows it, qselect finds it by name, qdel deletes it."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import IO

from pydantic import BaseModel, Field

from made_core.errors import BatchError

SECONDS = 60.0  # for one command: a busy server answers after tens of seconds
QSUB_SECONDS = 900.0  # for qsub, which leaves a job behind that nobody knows of where it is killed too early
UNKNOWN = re.compile(r"unknown job|job has finished", re.IGNORECASE)
NO_HISTORY = "not configured to maintain job history"  # OpenPBS's default; then it refuses qstat -x
WALLTIME_EXCEEDED = -29  # OpenPBS: JOB_EXEC_KILL_WALLTIME
TERMINATED = 91  # OpenPBS's substate of a job that qdel deleted; 92 is success, 93 failure
TERMINATED_SHELL = 143  # 128 + SIGTERM: what the job's script exits with when PBS ends it
SIGNALLED = 256  # an exit status above this: killed by the signal (status - 256)


class Phase(Enum):
    """Where a job is, of PBS's more numerous states."""

    WAITING = "waiting"  # queued, held, waiting for its time, being moved
    RUNNING = "running"  # running, suspended or exiting
    ENDED = "ended"  # finished, or no longer known to PBS


class Cause(Enum):
    """Why a job ended."""

    WALLTIME = "walltime"
    DELETED = "deleted"
    EXIT = "exit"  # by itself
    UNKNOWN = "unknown"  # PBS keeps no history of ended jobs


@dataclass(frozen=True)
class Job:
    """A job as PBS shows it."""

    id: str
    phase: Phase
    cause: Cause | None = None  # of an ended job
    exit_status: int | None = None
    comment: str = ""  # such as why it is still queued
    walltime: float | None = None  # seconds in all; None: no limit
    left: float | None = None  # seconds of it, of a running job
    exec_vnode: str = ""  # what it has on which hosts: (n1:ncpus=24:ngpus=4)+(n2:ncpus=24:ngpus=4)

    @classmethod
    def of(cls, job_id: str, shown: _Shown) -> Job:
        """A job from what `qstat -f` shows of it."""
        letter = shown.job_state
        phase = Phase.ENDED if letter in "FX" else Phase.RUNNING if letter in "RESUB" else Phase.WAITING
        return cls(
            job_id,
            phase,
            cause=shown.cause() if phase is Phase.ENDED else None,
            exit_status=shown.exit_status,
            comment=shown.comment,
            walltime=seconds(shown.walltime),
            left=shown.left(time.time()) if phase is Phase.RUNNING else None,
            exec_vnode=shown.exec_vnode,
        )


class _Shown(BaseModel):
    """The attributes of a job that are used here."""

    job_state: str
    substate: int | None = None
    exit_status: int | None = Field(None, alias="Exit_status")
    comment: str = ""
    stime: str = ""
    exec_vnode: str = ""
    walltime: str = Field("", alias="Resource_List.walltime")
    used: str = Field("", alias="resources_used.walltime")

    def left(self, now: float) -> float | None:
        """Seconds of the walltime that are left; None: no limit."""
        if (limit := seconds(self.walltime)) is None:
            return None
        try:
            elapsed = now - time.mktime(time.strptime(self.stime))
        except ValueError:
            elapsed = 0.0
        return limit - max(elapsed, seconds(self.used) or 0.0)  # what was used is minutes behind

    def cause(self) -> Cause:
        """Why the job, which has ended, did."""
        code, used, limit = self.exit_status, seconds(self.used), seconds(self.walltime)
        if code == WALLTIME_EXCEEDED:
            return Cause.WALLTIME
        if self.substate == TERMINATED or code is None:
            return Cause.DELETED
        if code < SIGNALLED and code != TERMINATED_SHELL:
            return Cause.EXIT
        return Cause.WALLTIME if used is not None and limit is not None and used >= limit else Cause.DELETED


class NoAnswer(BatchError):
    """PBS's command did not end in time; what it asked for may have been done."""


def submit(script: Path, record: Path) -> str:
    """Submits a job script and returns the job's id, which qsub itself also writes to `record`.

    Raises:
        NoAnswer: qsub did not end in time: there may be a job. `record` stays, empty and just touched.
        BatchError: qsub is missing or refuses the job.
    """
    with record.open("w", encoding="utf-8") as file:
        try:
            done = _run(["qsub", str(script)], cwd=script.parent, stdout=file, patience=QSUB_SECONDS)
        except NoAnswer:
            record.touch()
            raise
    if done.returncode:
        record.unlink(missing_ok=True)
        raise BatchError(f"qsub refused {script}: {_said(done)}")
    return record.read_text(encoding="utf-8").strip()


def named(name: str) -> list[str]:
    """The ids of the jobs with this name that have not ended.

    Raises:
        BatchError: qselect is missing or PBS does not answer.
    """
    done = _run(["qselect", "-N", name])
    if done.returncode:
        raise BatchError(f"qselect failed: {_said(done)}")
    return done.stdout.split()


def query(ids: Sequence[str], patience: float = SECONDS) -> dict[str, Job]:
    """The jobs of these ids; PBS forgets ended jobs, at the latest after job_history_duration.

    Args:
        patience: seconds to wait for qstat.

    Raises:
        BatchError: qstat is missing or PBS does not answer: nothing is known about the jobs.
    """
    if not ids:
        return {}
    done = _run(["qstat", "-x", "-f", *ids], patience=patience)
    if NO_HISTORY in done.stderr:
        done = _run(["qstat", "-f", *ids], patience=patience)
    if done.returncode and not UNKNOWN.search(done.stderr):
        raise BatchError(f"qstat failed: {_said(done)}")
    try:
        shown = {i: Job.of(i, _Shown.model_validate(values)) for i, values in _listed(done.stdout).items()}
    except ValueError as error:
        raise BatchError(f"qstat -f printed something else than the attributes of jobs: {error}") from None
    missing = [i for i in ids if i not in shown]
    if missing and not UNKNOWN.search(done.stderr):
        raise BatchError(
            f"qstat does not show {', '.join(missing)}, nor that they are unknown: {_said(done)}"
        )
    return {i: shown.get(i, Job(i, Phase.ENDED, Cause.UNKNOWN)) for i in ids}


def _listed(text: str) -> dict[str, dict[str, str]]:
    """The attributes of each job in what `qstat -f` prints.

    As text: its JSON is not valid where a job was submitted with `-V` and the environment has functions of
    bash (OpenPBS #2541), which environment modules leave there.
    """
    jobs: dict[str, dict[str, str]] = {}
    values: dict[str, str] = {}
    for line in text.replace("\n\t", "").splitlines():  # long lines are wrapped
        if line.startswith("Job Id: "):
            values = jobs[line.removeprefix("Job Id: ").strip()] = {}
        else:
            name, equals, value = line.strip().partition(" = ")
            if equals:
                values.setdefault(name, value)
    return jobs


def delete(job_id: str) -> None:
    """Deletes a job; one that has ended is left alone.

    Raises:
        BatchError: qdel is missing or fails.
    """
    done = _run(["qdel", job_id])
    if done.returncode and not UNKNOWN.search(done.stderr):
        raise BatchError(f"qdel {job_id} failed: {_said(done)}")


def seconds(walltime: str) -> float | None:
    """Seconds of [[HH:]MM:]SS; None if the text is none of these."""
    if not re.fullmatch(r"(\d+:){0,2}\d+(\.\d+)?", walltime):
        return None
    total = 0.0
    for part in walltime.split(":"):
        total = 60 * total + float(part)
    return total


def _run(
    command: list[str],
    cwd: Path | None = None,
    stdout: IO[str] | int = subprocess.PIPE,
    patience: float = SECONDS,
) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command,
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            timeout=patience,
        )
    except FileNotFoundError:
        raise BatchError(f"{command[0]} is not on the PATH: is this a host of the PBS cluster?") from None
    except subprocess.TimeoutExpired:
        raise NoAnswer(f"{command[0]} did not answer within {patience:g} s") from None


def _said(done: subprocess.CompletedProcess[str]) -> str:
    return " ".join((done.stderr or done.stdout or "").split()) or f"exit code {done.returncode}"
