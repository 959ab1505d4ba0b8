"""Ledger and Prefect server on the head node of a job, for jobs without servers elsewhere.

`python -m flows.pbs.servers FOLDER --listen ADDRESS --environment FILE` runs until SIGTERM, or until the
process OWNER ends. FOLDER is on the shared store: the next job finds the data there. Only one job at a time
may use it.
"""

from __future__ import annotations

import argparse
import errno
import fcntl
import json
import os
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO

from sqlalchemy import make_url

from flows.pbs import batch
from flows.pbs.batch import Phase
from flows.pbs.janitor import MARK, Janitor
from flows.pbs.resources import Share, share_of, shares
from flows.pbs.stops import Stops
from flows.service import control, state
from made_core.errors import BatchError, DatabaseError, MadeError, UserError
from made_core.ledger import postgres, postgres_tcp
from made_core.settings import settings

DUMP_SECONDS = 600.0  # between two dumps of node-local data: what a killed job loses at most
LEAVING_SECONDS = 60.0  # in which the servers of a job that has ended are waited for
TICK = 0.2
DATABASES = ("postgres", state.PREFECT_DATABASE)


@dataclass(frozen=True)
class Owner:
    """Who uses a folder of servers."""

    host: str
    job: str  # PBS job; empty outside of one
    pid: int

    def __str__(self) -> str:
        return f"PBS job {self.job} on {self.host}" if self.job else f"process {self.pid} on {self.host}"


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """This job alone uses the folder inside the context.

    A lock of the file system (on NFS and Lustre too, where it is mounted with locks), and, because such locks
    can be lost or switched off, a record of the job that has the folder, which PBS is asked about.

    Raises:
        UserError: another job uses the folder, or it cannot be known whether one does.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    record = folder / "owner.json"
    with (folder / "lock").open("a") as gate:
        here = Owner(socket.gethostname(), os.environ.get("PBS_JOBID", ""), os.getpid())
        end = time.monotonic() + LEAVING_SECONDS
        while not _locked(gate):
            before = _owner(record)
            if before is None or time.monotonic() > end or not _is_leaving(before, here):
                raise UserError(f"{folder} is in use by {before or 'another job'}")
            time.sleep(1)
        before = _owner(record)
        if before is not None and (before.job, before.host) != (here.job, here.host):
            _refuse_live(folder, before, here)
        fresh = record.with_suffix(".new")
        fresh.write_text(json.dumps(asdict(here)), encoding="utf-8")
        fresh.replace(record)
        _take_over(folder)
        yield
        record.unlink()  # ended in order; otherwise the next job asks PBS


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
    """Whether the owner's job has ended, or its earlier run, so that its servers follow within seconds."""
    if not owner.job:
        return False
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
        raise UserError(f"{folder} is in use by {before}: wait until it ends, or give another MADE_SERVERS")


def _runs_again(job: batch.Job, before: Owner, here: Owner) -> bool:
    """Whether PBS has started the job again, here, and so no longer runs it where it was before.

    After the loss of a node PBS does so although it cannot end what may still run there: then the lock, which
    was free, is all that is known of it. Names of hosts that PBS writes otherwise prove nothing.
    """
    hosts = shares(job.exec_vnode)
    there, here_too = (share_of(owner.host, hosts) != Share() for owner in (before, here))
    return before.job == here.job and job.phase is Phase.RUNNING and (here_too or not there)


def _owner(record: Path) -> Owner | None:
    try:
        return Owner(**json.loads(record.read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def dump(url: str, folder: Path) -> None:
    """Dumps the databases of a server to `folder`; a dump is whole or not there."""
    folder.mkdir(mode=0o700, exist_ok=True)
    for name in DATABASES:
        fresh = folder / f"{name}.new"
        _client("pg_dump", url, "--format=custom", f"--dbname={name}", f"--file={fresh}")
        fresh.replace(folder / f"{name}.dump")


def restore(url: str, folder: Path) -> None:
    """Restores the databases that `dump` wrote into a new server; without a dump there is nothing to do."""
    for name in DATABASES:
        if (path := folder / f"{name}.dump").exists():
            postgres_tcp.create_database(url, name)
            _client(
                "pg_restore", url, "--clean", "--if-exists", "--exit-on-error", f"--dbname={name}", str(path)
            )


def _client(program: str, url: str, *options: str) -> None:
    """Runs a client program of PostgreSQL. `url`: SQLAlchemy's, of the server's socket."""
    at = make_url(url)
    host, port = str(at.query["host"]), str(at.query["port"])
    command = [str(postgres.binaries() / program), f"--host={host}", f"--port={port}", "--username=postgres"]
    done = subprocess.run(
        [*command, *options],
        capture_output=True, text=True, stdin=subprocess.DEVNULL, env={**os.environ, "LC_ALL": "C"},
    )  # fmt: skip
    if done.returncode:
        raise DatabaseError(f"{program} failed: {' '.join(done.stderr.split())[-500:]}")


def serve(folder: Path, listen: str, environment: Path, local: Path | None, stops: Stops) -> None:
    """Runs the servers until they are to stop.

    Args:
        folder: on the shared store, with the data or their dumps.
        listen: this node's address, which the other nodes reach.
        environment: file to which the exports for a shell are written once all is ready; with passwords.
        local: folder on this node's disk for the data, of which `folder` has dumps; None: data in `folder`.

    Raises:
        UserError: the folder is in use.
        MadeError: a server does not start.
    """
    home = local or folder
    with claimed(folder):
        os.environ["MADE_HOME"] = str(home)
        settings.cache_clear()
        for name in ("service.json", "processes.json"):  # ports, passwords and processes are of one job
            (state.folder() / name).unlink(missing_ok=True)
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        with postgres.embedded(home) as url:
            if local is not None:
                restore(url, folder / "dumps")
            try:
                config = control.up(listen, None, False, lambda line: print(f"made: {line}", file=sys.stderr))
                _export(environment, config.environment())
                due = time.monotonic() + DUMP_SECONDS
                while not stops.due():
                    time.sleep(TICK)
                    if local is not None and time.monotonic() >= due:
                        dump(url, folder / "dumps")
                        due = time.monotonic() + DUMP_SECONDS
            finally:
                environment.unlink(missing_ok=True)
                if local is not None:
                    dump(url, folder / "dumps")
                control.down(lambda line: None)


def _export(path: Path, values: dict[str, str]) -> None:
    fresh = path.with_name(path.name + ".new")
    fresh.unlink(missing_ok=True)
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.writelines(f"export {name}={shlex.quote(value)}\n" for name, value in values.items())
    fresh.replace(path)


def main() -> int:
    """Entry point; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m flows.pbs.servers", description=__doc__)
    parser.add_argument("folder", type=Path, help="on the shared store")
    parser.add_argument("--listen", required=True, help="address of this node that the other nodes reach")
    parser.add_argument(
        "--environment", type=Path, required=True, help="file for the exports, once all is ready"
    )
    parser.add_argument("--local", type=Path, help="folder on this node's disk for the data of PostgreSQL")
    parser.add_argument("--owner", type=int, help="process of the job, such as that of its script")
    given = parser.parse_args()
    # PBS kills a deleted job's sessions, often at once: in one of their own the servers end in order.
    with suppress(PermissionError):  # a job of an interactive shell leads a group already
        os.setsid()
    mark = os.environ[MARK] = str(given.environment.with_suffix(""))
    janitor = Janitor(mark, None, lambda: given.environment.unlink(missing_ok=True))
    try:
        with Stops(given.owner) as stops:
            serve(given.folder.resolve(), given.listen, given.environment, given.local, stops)
    except MadeError as error:
        print(f"made: {error}", file=sys.stderr)
        return 2 if isinstance(error, UserError) else 1
    finally:
        janitor.finish()
    return 0


if __name__ == "__main__":
    sys.exit(main())
