"""The Prefect server on the private PostgreSQL: `python -m flows.service.prefect_server HOST PORT`."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import Any

from sqlalchemy import event
from sqlalchemy.engine import Engine

from made_core.settings import settings

RETENTION_DAYS = 90  # of a flow run that has ended
SETTINGS = {
    # The pages that the tests go through, unless a browser has chosen the others; without advertisements.
    "PREFECT_SERVER_UI_V2_ENABLED": "false",
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    # Removes old flow runs with their task runs, logs and artifacts, which hold pictures; by default it does
    # not. Events go after a week. The ledger has all that made needs to know of a run.
    "PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED": "events,flow_runs",
    "PREFECT_SERVER_SERVICES_DB_VACUUM_RETENTION_PERIOD": str(RETENTION_DAYS * 24 * 3600),
}


def main() -> None:
    """Upgrades the schema, then becomes the server."""
    host, port = sys.argv[1:]
    asyncio.run(_migrate())
    import prefect

    if not os.access(prefect.__ui_static_subpath__.parent, os.W_OK):  # the packages belong to another user
        pages = settings().home_path / "prefect-ui"
        pages.mkdir(parents=True, exist_ok=True)
        os.environ.setdefault("PREFECT_UI_STATIC_DIRECTORY", str(pages))
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    # What `prefect server start` runs, without its second process.
    os.environ["PREFECT__SERVER_FINAL"] = "1"
    os.execv(
        sys.executable,
        [sys.executable, "-m", "uvicorn", "--app-dir", str(prefect.__module_path__.parent), "--factory",
         "prefect.server.api.server:create_app", "--host", host, "--port", port,
         "--timeout-keep-alive", "5", "--log-level", "warning"],
    )  # fmt: skip


async def _migrate() -> None:
    from prefect.server.database import provide_database_interface

    event.listen(Engine, "before_cursor_execute", _without_trigrams, retval=True)
    await provide_database_interface().create_db()


def _without_trigrams(
    connection: Any, cursor: Any, statement: str, parameters: Any, context: Any, executemany: bool
) -> tuple[str, Any]:
    """Prefect's migrations without the extension pg_trgm, which the PostgreSQL of the wheel does not have.

    Prefect uses it only to speed up searches for parts of names. Its indexes become hash indexes: they
    keep their names, which later migrations refer to, and take names of any length.
    """
    if "EXTENSION" in statement and "pg_trgm" in statement:
        return "SELECT 1", parameters
    return statement.replace("USING gin (name gin_trgm_ops)", "USING hash (name)"), parameters


if __name__ == "__main__":
    main()
