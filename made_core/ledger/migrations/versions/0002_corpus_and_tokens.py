"""A run's corpus; the token of each claim, which identifies an attempt's files as this ledger's."""

from __future__ import annotations

from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Adds the columns."""
    op.execute("ALTER TABLE run ADD COLUMN corpus jsonb")
    op.execute("ALTER TABLE event ADD COLUMN token text")


def downgrade() -> None:
    """Drops them."""
    op.execute("ALTER TABLE run DROP COLUMN corpus")
    op.execute("ALTER TABLE event DROP COLUMN token")
