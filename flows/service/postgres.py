"""PostgreSQL of the ledger and of Prefect alone, in the foreground: `python -m flows.service.postgres`.

For containers, where each server is a service of its own; `made up` starts it with the others.
"""

from __future__ import annotations

import signal
import threading
from typing import Annotated

import psycopg
import typer

from flows.service.state import LOOPBACK, PREFECT_DATABASE
from made_core.ledger import postgres, postgres_tcp
from made_core.ledger.postgres_tcp import USER, Listen
from made_core.settings import settings

CHECK_SECONDS = 5


def serve(
    password: Annotated[str, typer.Option(envvar="PGPASSWORD", help="Password of connections over TCP.")],
    listen: Annotated[str, typer.Option(help="Address of this host to listen on.")] = LOOPBACK,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 5432,
    check: Annotated[bool, typer.Option("--check", help="Exit with 0 if a server on PORT answers.")] = False,
) -> None:
    """Runs PostgreSQL with its data in MADE_HOME until SIGTERM or SIGINT."""
    if check:
        psycopg.connect(
            host=LOOPBACK, port=port, user=USER, password=password, dbname=PREFECT_DATABASE,
            connect_timeout=CHECK_SECONDS,
        ).close()  # fmt: skip
        return
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    with postgres.embedded(settings().home_path, Listen(listen, port)) as url:
        postgres_tcp.set_password(url, password)
        postgres_tcp.create_database(url, PREFECT_DATABASE)
        print(f"PostgreSQL listens on {listen}:{port}", flush=True)
        stop.wait()


if __name__ == "__main__":
    typer.run(serve)
