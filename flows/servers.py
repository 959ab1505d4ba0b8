"""The servers that a run needs and nobody gave: a private PostgreSQL, one Prefect server."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

from made_core.io import files
from made_core.ledger import postgres
from made_core.settings import settings

START_SECONDS = 120  # for Prefect's server: it imports for tens of seconds on a busy machine


@contextmanager
def database() -> Iterator[str]:
    """The ledger's URL: MADE_DATABASE_URL, or a private server's for as long as this lasts."""
    url = settings().database_url
    if url is not None:
        yield url
        return
    with postgres.embedded(settings().home_path) as own:
        yield own


@contextmanager
def prefect() -> Iterator[None]:
    """A Prefect API: the configured one, or a server for as long as this lasts.

    Without it each process that runs a task would start a server of its own.
    """
    # Here: they take seconds, and the ledger's URL is asked for before anything is started.
    from prefect.logging.handlers import APILogHandler
    from prefect.server.api.server import SubprocessASGIServer
    from prefect.settings import PREFECT_API_URL, get_current_settings, temporary_settings

    if get_current_settings().api.url:
        yield
        return
    with files.scratch() as folder:
        os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
        os.environ["PREFECT_API_DATABASE_CONNECTION_URL"] = f"sqlite+aiosqlite:///{folder}/prefect.db"
        server = SubprocessASGIServer()
        # Ctrl-C is for us alone: without the server, each line of our log would wait for it in vain.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            server.start(timeout=START_SECONDS)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        try:
            with temporary_settings({PREFECT_API_URL: server.api_url}):
                yield
        finally:
            APILogHandler().flush()  # while there is somebody to take the last lines
            server.stop()
            del os.environ["PREFECT_API_DATABASE_CONNECTION_URL"]
