"""Which products have changed since the last snapshot: a start after a crash brings that one up to date."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Adds the list; it begins with the first snapshot that is written from now on."""
    op.add_column("catalogs", sa.Column("kept", sa.String(32), nullable=True))
    op.create_table(
        "changes",
        sa.Column("catalog_pk", sa.Integer, sa.ForeignKey("catalogs.pk", ondelete="CASCADE"), primary_key=True),
        sa.Column("product_pk", sa.Integer, primary_key=True),
        sqlite_with_rowid=False,
    )


def downgrade() -> None:
    """Drops it."""
    op.drop_table("changes")
    op.drop_column("catalogs", "kept")
