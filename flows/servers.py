"""The servers of a command: those that are configured, those of the running service, or its own."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

from flows.service import state
from made_core.io import files
from made_core.ledger import postgres
from made_core.settings import settings

NOTHING: AbstractContextManager[None] = nullcontext()


@contextmanager
def database() -> Iterator[str]:
    """The ledger's URL: MADE_DATABASE_URL, the running service's, or a private server's.

    The service's PostgreSQL runs until the context ends, even if the service ends before.
    """
    url, service = settings().database_url, state.running()
    if url is None and service is not None:
        url = service.given.database_url
    if url is not None:
        yield url
        return
    with postgres.embedded(settings().home_path) as own:
        yield own if service is None else service.database_url


@contextmanager
def prefect(meanwhile: AbstractContextManager[None] = NOTHING) -> Iterator[None]:
    """A Prefect API: of PREFECT_API_URL, the running service, Prefect's active profile, or an own server.

    An own server runs inside the context. The profile of a service that is not up does not count.

    Args:
        meanwhile: a context that is entered while an own server starts.

    Without it, each process that runs a task would start its own server.
    """
    # Imported here: they take seconds, and the ledger's URL is checked before anything starts.
    from prefect.logging.handlers import APILogHandler
    from prefect.settings import (
        PREFECT_API_AUTH_STRING,
        PREFECT_API_URL,
        PREFECT_FLOWS_HEARTBEAT_FREQUENCY,
        get_current_settings,
        temporary_settings,
    )

    from flows.plain_http import fast_clients
    from flows.private_server import private_server

    if os.environ.get("PREFECT_API_URL"):
        with meanwhile:
            yield
        return
    if (service := state.running()) is not None:
        names = ("PREFECT_API_URL", "PREFECT_API_AUTH_STRING")
        found = service.environment()
        os.environ.update({name: found[name] for name in names if name in found})  # for a local Ray's workers
        login = service.auth_string if service.has_server else get_current_settings().api.auth_string
        with (
            temporary_settings({PREFECT_API_URL: service.prefect_api_url, PREFECT_API_AUTH_STRING: login}),
            meanwhile,
        ):
            yield
        return
    known = state.config()
    own = None if known is None else known.prefect_api_url
    if (url := get_current_settings().api.url) and url != own:
        with meanwhile:
            yield
        return
    unset = {PREFECT_API_URL, PREFECT_API_AUTH_STRING}
    with (
        files.scratch() as folder,
        temporary_settings(restore_defaults=unset),
        private_server(folder) as server,
        # Nobody looks for heartbeats there, and the end of a flow waits up to a second for their thread.
        temporary_settings(
            {
                PREFECT_API_URL: server.api_url,
                PREFECT_API_AUTH_STRING: server.auth_string,
                PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None,
            }
        ),
        fast_clients(),
        meanwhile,
    ):
        server.wait()
        try:
            yield
        finally:
            APILogHandler().flush()  # while the server still accepts the last lines
