"""Ledger and Prefect server on the head node of a job, for jobs without servers elsewhere.

`python -m flows.pbs.servers FOLDER --listen ADDRESS --environment FILE` runs until SIGTERM, or until the
process OWNER ends. FOLDER is on the shared store: the next job finds the data there. Only one job at a time
may use it.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from sqlalchemy import make_url

from flows.pbs.claim import Owner, claimed
from flows.pbs.janitor import MARK, Janitor
from flows.pbs.stops import Stops
from flows.service import control, state
from made_core.errors import DatabaseError, MadeError, UserError
from made_core.ledger import postgres, postgres_tcp
from made_core.settings import settings

DUMP_SECONDS = 600.0  # between two dumps of node-local data: what a killed job loses at most
TICK = 0.2
LEDGER = "postgres"  # its database
DATABASES = (LEDGER, state.PREFECT_DATABASE)


def dump(url: str, folder: Path) -> None:
    """Dumps the databases of a server to `folder`; a dump is whole or not there."""
    folder.mkdir(mode=0o700, exist_ok=True)
    for name in DATABASES:
        fresh = folder / f"{name}.new"
        _client("pg_dump", url, "--format=custom", f"--dbname={name}", f"--file={fresh}")
        fresh.replace(folder / f"{name}.dump")


def restore(url: str, folder: Path, databases: Sequence[str] = DATABASES) -> None:
    """Restores databases that `dump` wrote into a new server; without a dump there is nothing to do."""
    for name in databases:
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
    with claimed(folder, Owner.job_here(environment)):
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
