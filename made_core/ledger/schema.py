"""The schema of the ledger is its migrations; COMMENTs in them say what each column holds."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text

from made_core.errors import DatabaseError

VERSION_TABLE = "made_version"  # not alembic's default: Prefect may use the same database
LOCK = 0x6D616465  # "made": held while the schema is being changed


def upgrade(connection: Connection, place: str) -> None:
    """Brings the database to the latest schema, in the connection's transaction.

    Processes that start at the same time wait for each other. `place` names the database in errors.

    Raises:
        DatabaseError: its schema is one that this program does not know.
    """
    config = Config()
    folder = str(Path(__file__).with_name("migrations"))
    config.set_main_option("script_location", folder.replace("%", "%%"))
    config.attributes["connection"] = connection
    scripts = ScriptDirectory.from_config(config)
    head = scripts.get_current_head()
    found = _current(connection)
    if found != head:  # either this process changes it, or another one is doing so: wait and look again
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": LOCK})
        found = _current(connection)
    if found is not None and found not in {s.revision for s in scripts.walk_revisions()}:
        raise DatabaseError(
            f"{place} is of another version of made: its schema is {found}, this program knows up to {head}"
        )
    if found != head:
        command.upgrade(config, "head")


def _current(connection: Connection) -> str | None:
    options = {"version_table": VERSION_TABLE}
    return MigrationContext.configure(connection, opts=options).get_current_revision()
