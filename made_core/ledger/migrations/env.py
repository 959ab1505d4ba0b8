"""Entry point of Alembic: runs the migrations on the connection given by made_core.ledger.upgrade."""

from __future__ import annotations

from alembic import context

from made_core.ledger.upgrade import VERSION_TABLE

context.configure(connection=context.config.attributes["connection"], version_table=VERSION_TABLE)
with context.begin_transaction():
    context.run_migrations()
