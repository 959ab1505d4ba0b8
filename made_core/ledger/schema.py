"""The schema of the ledger. It is defined by the migrations; their COMMENTs describe each column."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text

from made_core.errors import DatabaseError

VERSION_TABLE = "made_version"  # not alembic's default: Prefect may use the same database
LOCK = 0x6D616465  # "made": advisory lock held while the schema is changed


def upgrade(connection: Connection, name: str) -> None:
    """Upgrades the database to the latest schema, in the connection's transaction.

    Processes that start at the same time wait for each other. `name`: of the database, for errors.

    Raises:
        DatabaseError: this program does not know the schema's version.
    """
    config = Config()
    folder = str(Path(__file__).with_name("migrations"))
    config.set_main_option("script_location", folder.replace("%", "%%"))
    config.attributes["connection"] = connection
    scripts = ScriptDirectory.from_config(config)
    head = scripts.get_current_head()
    current = _current(connection)
    if current != head:  # another process may be upgrading it: wait for the lock and check again
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": LOCK})
        current = _current(connection)
    if current is not None and current not in {s.revision for s in scripts.walk_revisions()}:
        raise DatabaseError(
            f"{name} was created by another version of made: its schema is {current}, this program knows "
            f"schemas up to {head}; upgrade made"
        )
    if current != head:
        command.upgrade(config, "head")


def _current(connection: Connection) -> str | None:
    options = {"version_table": VERSION_TABLE}
    return MigrationContext.configure(connection, opts=options).get_current_revision()
