"""Perceptual hashes of photos."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Adds the column; photos stored before have none until they are indexed again."""
    op.add_column("photos", sa.Column("phash", sa.String(16)))


def downgrade() -> None:
    """Removes the column."""
    op.drop_column("photos", "phash")
