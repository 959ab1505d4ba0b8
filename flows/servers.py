"""The servers that a run starts if none is configured: a private PostgreSQL and a Prefect server."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

from made_core.io import files
from made_core.ledger import postgres
from made_core.settings import settings

START_SECONDS = 120  # for Prefect's server: imports take tens of seconds on a busy machine


@contextmanager
def database() -> Iterator[str]:
    """The ledger's URL: MADE_DATABASE_URL, or that of a private server that runs inside the context."""
    url = settings().database_url
    if url is not None:
        yield url
        return
    with postgres.embedded(settings().home_path) as own:
        yield own


@contextmanager
def prefect() -> Iterator[None]:
    """A Prefect API: the configured one, or a server that runs inside the context.

    Without it, each process that runs a task would start its own server.
    """
    # Imported here: they take seconds, and the ledger's URL is checked before anything starts.
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
        # Ctrl-C must not reach the server: log handlers would wait for a server that is gone.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            server.start(timeout=START_SECONDS)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        try:
            with temporary_settings({PREFECT_API_URL: server.api_url}):
                yield
        finally:
            APILogHandler().flush()  # while the server still accepts the last lines
            server.stop()
            del os.environ["PREFECT_API_DATABASE_CONNECTION_URL"]
