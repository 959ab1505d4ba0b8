"""Who uses the folder of a job's servers: one job at a time, or a command that looks at its ledger."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from flows.pbs import batch
from flows.pbs.batch import Phase
from flows.pbs.resources import Share, share_of, shares
from made_core.errors import BatchError, UserError

LEAVING_SECONDS = 60.0  # in which the servers of a job that has ended are waited for
LOOKING_SECONDS = 600.0  # in which a command outside of a job, such as `made pbs status`, is waited for


@dataclass(frozen=True)
class Owner:
    """Who uses a folder of servers."""

    host: str
    job: str  # PBS job; empty outside of one
    pid: int
    environment: str = ""  # file of exports while its servers are up; empty: it shares none

    @classmethod
    def job_here(cls, environment: Path) -> Owner:
        """The servers of the job that this process is in."""
        return cls(socket.gethostname(), os.environ.get("PBS_JOBID", ""), os.getpid(), str(environment))

    @classmethod
    def command_here(cls) -> Owner:
        """This process, which looks at the ledger: inside a job too, it is not that job's servers."""
        return cls(socket.gethostname(), "", os.getpid())

    def __str__(self) -> str:
        return f"PBS job {self.job} on {self.host}" if self.job else f"process {self.pid} on {self.host}"


class InUse(UserError):
    """Another job or command uses the folder."""

    def __init__(self, detail: str, owner: Owner | None = None) -> None:
        super().__init__(detail)
        self.owner = owner  # None: not known


@contextmanager
def claimed(folder: Path, here: Owner) -> Iterator[None]:
    """`here` alone uses the folder inside the context.

    A lock of the file system (on NFS and Lustre too, where it is mounted with locks), and, because such locks
    can be lost or switched off, a record of the job that has the folder, which PBS is asked about.

    Raises:
        InUse: another one uses the folder.
        UserError: it cannot be known whether another one does.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    record = _record(folder)
    with (folder / "lock").open("a") as gate:
        _wait(gate, folder, here)
        before = _owner(record)
        if before is not None and (not here.job or (before.job, before.host) != (here.job, here.host)):
            _refuse_live(folder, before, here)
        fresh = record.with_suffix(".new")
        fresh.write_text(json.dumps(asdict(here)), encoding="utf-8")
        fresh.replace(record)
        _take_over(folder)
        yield
        record.unlink()  # ended in order; otherwise the next job asks PBS


def forget(folder: Path, owner: Owner) -> None:
    """Removes the record of an owner that was killed, and of which nothing runs any more."""
    if _owner(_record(folder)) == owner:
        _record(folder).unlink(missing_ok=True)


def _wait(gate: IO[str], folder: Path, here: Owner) -> None:
    """Takes the lock; waits for an owner that leaves soon. Raises InUse."""
    began, told = time.monotonic(), False
    while not _locked(gate):
        before = _owner(_record(folder))
        if before is None:
            raise InUse(f"{folder} is in use by another job, which has just begun or is ending")
        patience = LEAVING_SECONDS if before.job else LOOKING_SECONDS
        if time.monotonic() - began > patience or not _is_leaving(before, here):
            raise InUse(f"{folder} is in use by {before}", before)
        if not told:
            print(f"made: waiting for {before}, which uses {folder}", file=sys.stderr, flush=True)
            told = True
        time.sleep(1)


def _locked(gate: IO[str]) -> bool:
    """Takes the lock; False: another process has it. Raises UserError where the file system has no locks."""
    try:
        fcntl.lockf(gate, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
            raise
        raise UserError(
            f"{Path(gate.name).parent} is on a file system without file locks ({error.strerror}): have it "
            "mounted with them (NFS: its lock service; Lustre: flock), or set MADE_SERVERS to another folder"
        ) from None
    return True


def _is_leaving(owner: Owner, here: Owner) -> bool:
    """Whether the owner ends soon: its job, or an earlier run of it, has ended, or it only looks."""
    if not owner.job:
        return not owner.environment
    if owner.job == here.job:  # PBS ends the earlier run of a job before it runs it again
        return True
    try:
        return batch.query([owner.job])[owner.job].phase is Phase.ENDED
    except BatchError:
        return False


def _take_over(folder: Path) -> None:
    """The private PostgreSQL belongs to one host: to this one, now that no other job has the folder."""
    host = folder / "postgres.host"
    if host.exists() and host.read_text(encoding="utf-8").strip() != socket.gethostname():
        # Of a server that was killed on another host: here its process id may be that of any process.
        (folder / "postgres" / "postmaster.pid").unlink(missing_ok=True)
    host.unlink(missing_ok=True)


def _refuse_live(folder: Path, before: Owner, here: Owner) -> None:
    if not before.job:
        if before.host != socket.gethostname():
            raise UserError(
                f"{folder} was last used by {before}, which may still run: if it does not, remove "
                f"{folder}/owner.json"
            )
        return
    try:
        job = batch.query([before.job])[before.job]
    except BatchError as error:
        raise UserError(
            f"{folder} was last used by {before}, and PBS does not say whether that job has ended ({error}): "
            f"if it has, remove {folder}/owner.json"
        ) from None
    if job.phase is not Phase.ENDED and not _runs_again(job, before, here):
        raise InUse(
            f"{folder} is in use by {before}: wait until it ends, or give another MADE_SERVERS", before
        )


def _runs_again(job: batch.Job, before: Owner, here: Owner) -> bool:
    """Whether PBS has started the job again, here, and so no longer runs it where it was before.

    After the loss of a node PBS does so although it cannot end what may still run there: then the lock, which
    was free, is all that is known of it. Names of hosts that PBS writes otherwise prove nothing.
    """
    hosts = shares(job.exec_vnode)
    there, here_too = (share_of(owner.host, hosts) != Share() for owner in (before, here))
    return before.job == here.job and job.phase is Phase.RUNNING and (here_too or not there)


def _record(folder: Path) -> Path:
    return folder / "owner.json"


def _owner(record: Path) -> Owner | None:
    try:
        return Owner(**json.loads(record.read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError, TypeError):
        return None
