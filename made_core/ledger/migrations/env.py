"""Alembic's entry: runs the migrations on the connection that made_core.ledger.schema hands over."""

from __future__ import annotations

from alembic import context

from made_core.ledger.schema import VERSION_TABLE

context.configure(connection=context.config.attributes["connection"], version_table=VERSION_TABLE)
with context.begin_transaction():
    context.run_migrations()
