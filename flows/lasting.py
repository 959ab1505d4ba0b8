"""What outlives what: a flow outlives its worker, which reads what it prints; a helper ends with its parent.

Prefect prints by rich, which ends a process whose output nobody reads any more: the next line that the flow
logs would end it.
"""

from __future__ import annotations

import ctypes
import logging
import os
import signal

from prefect.logging.handlers import PrefectConsoleHandler

STREAMS = (1, 2)  # standard output and error
PR_SET_PDEATHSIG = 1  # linux/prctl.h
_LIBC = ctypes.CDLL(None)


def ignore_lost_reader() -> None:
    """From the first line on that nobody reads, discards what this process prints."""
    for logger in (logging.getLogger(), logging.getLogger("prefect")):
        for handler in logger.handlers:
            if isinstance(handler, PrefectConsoleHandler):
                handler.console.on_broken_pipe = _discard  # type: ignore[method-assign]


def end_with_parent() -> None:
    """In a new process (`preexec_fn`): it gets SIGTERM when the thread that started it ends, or is killed."""
    _LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def _discard() -> None:
    null = os.open(os.devnull, os.O_WRONLY)
    for stream in STREAMS:
        os.dup2(null, stream)
    os.close(null)
