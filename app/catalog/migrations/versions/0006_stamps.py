"""Stamps: what ties a snapshot to the one state of one catalog that it was made of."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Adds the column; the snapshots of before match no stamp, and are made anew."""
    op.add_column("catalogs", sa.Column("stamp", sa.String(32), nullable=False, server_default="new"))
    op.execute("UPDATE catalogs SET stamp = lower(hex(randomblob(16)))")


def downgrade() -> None:
    """Drops the column."""
    op.drop_column("catalogs", "stamp")
