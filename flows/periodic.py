"""A function that is called every few seconds while something else runs."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import copy_context

logger = logging.getLogger("prefect.made")


@contextmanager
def every(seconds: float, call: Callable[[], None]) -> Iterator[None]:
    """Calls `call` in a thread, `seconds` after it last returned. Its errors do not end that."""
    stop = threading.Event()

    def run() -> None:
        while not stop.wait(seconds):
            try:
                call()
            # The ledger or Prefect's server may come back. rich exits where nobody reads its output.
            except (Exception, SystemExit):
                logger.debug("%s failed, it will be called again", call, exc_info=True)

    # Prefect's settings and client are in context variables, which a new thread does not have.
    thread = threading.Thread(target=copy_context().run, args=(run,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
