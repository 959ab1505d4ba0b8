"""A flow outlives its worker, which reads what the flow prints.

Prefect prints by rich, which ends a process whose output nobody reads any more: the next line that the flow
logs would end it.
"""

from __future__ import annotations

import logging
import os

from prefect.logging.handlers import PrefectConsoleHandler

STREAMS = (1, 2)  # standard output and error


def ignore_lost_reader() -> None:
    """From the first line on that nobody reads, discards what this process prints."""
    for logger in (logging.getLogger(), logging.getLogger("prefect")):
        for handler in logger.handlers:
            if isinstance(handler, PrefectConsoleHandler):
                handler.console.on_broken_pipe = _discard  # type: ignore[method-assign]


def _discard() -> None:
    null = os.open(os.devnull, os.O_WRONLY)
    for stream in STREAMS:
        os.dup2(null, stream)
    os.close(null)
