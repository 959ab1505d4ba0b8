"""The process that holds a run: its name in the ledger, and whether it has died."""

from __future__ import annotations

import os
from contextlib import suppress

from made_core.ledger.ledger import Ledger
from made_core.ledger.records import Run
from made_core.settings import settings


def holder() -> str:
    """This process, as the ledger names it: host:pid."""
    return f"{settings().host}:{os.getpid()}"


def has_died(name: str) -> bool:
    """Whether a process of this host has died. False for other hosts: there only the lease can tell.

    If its pid was given to another process, the answer is False too, and the lease tells.
    """
    host, _, pid = name.rpartition(":")
    if host != settings().host or not pid.isdecimal():
        return False
    with suppress(PermissionError):  # the process of another user
        try:
            os.kill(int(pid), 0)
        except ProcessLookupError:
            return True
    return False


def free_if_died(ledger: Ledger, run: Run) -> bool:
    """Ends the lease of a run whose process has died, and those of its units. Whether it has.

    If the guess is wrong, as in containers with the same host name, no result is lost: the former holder
    finds that it no longer holds the run, and stops.
    """
    if not run.held or run.holder is None or not has_died(run.holder):
        return False
    if not ledger.runs.free(run.id, run.holder):
        return False  # another process holds it by now
    ledger.units.release(run.id)
    return True
