"""The process that holds a run: its name in the ledger, and whether it has died."""

from __future__ import annotations

import hashlib
import os
import secrets
from contextlib import suppress
from functools import cache

from flows.service import processes
from made_core.ledger.ledger import Ledger
from made_core.ledger.records import Run
from made_core.settings import settings


def holder() -> str:
    """This process, as the ledger names it: host:pid/place-token.

    Containers may have the same host name, and then mostly have the same pid too: the token tells their
    processes apart, and the place says where the pid can be looked up.
    """
    return f"{settings().host}:{os.getpid()}/{_place()}-{_token()}"


def has_died(name: str) -> bool:
    """Whether a process has died. False where its pid cannot be looked up: there only the lease can tell.

    That is on another host, in another container, after a reboot, and where a version of made recorded
    host:pid alone. If the pid was given to another process, the answer is False too.
    """
    process, _, rest = name.partition("/")
    host, _, pid = process.rpartition(":")
    if host != settings().host or not pid.isdecimal() or rest.partition("-")[0] != _place():
        return False
    with suppress(PermissionError):  # the process of another user
        try:
            os.kill(int(pid), 0)
        except ProcessLookupError:
            return True
    return False


def free_if_died(ledger: Ledger, run: Run) -> bool:
    """Ends the lease of a run whose process has died, and those of its units. Whether it has.

    Should it be alive nevertheless, no result is lost: it finds that it no longer holds the run, and stops.
    """
    if not run.held or run.holder is None or not has_died(run.holder):
        return False
    if not ledger.runs.free(run.id, run.holder):
        return False  # another process holds it by now
    ledger.units.release(run.id)
    return True


@cache
def _place() -> str:
    """Digest of this boot of the machine and the PID namespace: within it, a pid is one process."""
    place = f"{processes.boot()} {os.stat('/proc/self/ns/pid').st_ino}"
    return hashlib.blake2b(place.encode(), digest_size=4).hexdigest()


@cache
def _token() -> str:
    """Random digits of this process."""
    return secrets.token_hex(4)
