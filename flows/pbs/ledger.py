"""The ledger that batch jobs keep in MADE_SERVERS, for commands that look at it: `made pbs status`."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from flows.pbs.claim import InUse, Owner, claimed, forget
from flows.pbs.janitor import MARK, Janitor
from flows.pbs.servers import LEDGER, restore
from made_core.errors import UserError
from made_core.io import files
from made_core.ledger import postgres
from made_core.settings import settings

URL = "MADE_DATABASE_URL"


@contextmanager
def opened() -> Iterator[None]:
    """Inside the context, this process has the ledger of batch jobs; MADE_DATABASE_URL comes first.

    That of a live job is used where it is. After the job PostgreSQL starts here, on the data or on what the
    latest dump has. A job that starts meanwhile waits until the context ends.

    Raises:
        UserError: there is no such ledger, a job has it whose servers are not up, or it cannot be known
            whether one does.
        DatabaseError: PostgreSQL does not start.
    """
    if settings().database_url is not None:
        yield
        return
    folder, here = settings().servers_path, Owner.command_here()
    dumped = _is_dumped(folder)
    mark = f"{folder} {here}"
    # However this process ends, its PostgreSQL and its record do not stay.
    janitor = Janitor(mark, None, lambda: forget(folder, here))
    try:
        with ExitStack() as stack:
            stack.enter_context(_set(MARK, mark))
            try:
                stack.enter_context(claimed(folder, here))
            except InUse as error:
                url = _of_live(error)
            else:
                home = stack.enter_context(files.scratch()) if dumped else folder
                url = stack.enter_context(postgres.embedded(home))
                if dumped:
                    restore(url, folder / "dumps", [LEDGER])
            stack.enter_context(_set(URL, url))
            yield
    finally:
        janitor.finish()


def _is_dumped(folder: Path) -> bool:
    """Whether the latest job had its data on a disk of its own, and left dumps. Raises UserError."""
    control, dump = folder / "postgres" / "global" / "pg_control", folder / "dumps" / f"{LEDGER}.dump"
    times = [path.stat().st_mtime if path.exists() else 0.0 for path in (control, dump)]
    if not any(times) and not (folder / "owner.json").exists():
        raise UserError(
            f"{folder} has no ledger of a batch job: set MADE_SERVERS as the job has it, or "
            "MADE_DATABASE_URL if the job was given that"
        )
    return times[1] > times[0]


def _of_live(error: InUse) -> str:
    """The URL of the ledger of the job that uses the folder. Raises UserError."""
    if error.owner is None or not error.owner.environment:
        raise error
    try:
        text = Path(error.owner.environment).read_text(encoding="utf-8")
    except OSError:
        raise UserError(
            f"{error.owner} has the ledger, and its servers are not up: it starts or ends, try again later"
        ) from None
    for word in shlex.split(text):
        name, equals, value = word.partition("=")
        if name == URL and equals:
            return value
    raise UserError(f"{error.owner.environment} does not set {URL}")


@contextmanager
def _set(name: str, value: str) -> Iterator[None]:
    """Sets a variable inside the context, for this process and those that it starts."""
    before = os.environ.get(name)
    os.environ[name] = value
    settings.cache_clear()
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
        settings.cache_clear()
