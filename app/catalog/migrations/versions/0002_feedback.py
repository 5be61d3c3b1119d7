"""What people say about pairs."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Adds the table of statements."""
    op.create_table(
        "feedback",
        sa.Column("pk", sa.Integer, primary_key=True),
        sa.Column("catalog_pk", sa.Integer, sa.ForeignKey("catalogs.pk", ondelete="CASCADE"), nullable=False),
        sa.Column("pair", sa.String(64), nullable=False),
        sa.Column("first_id", sa.String(200), nullable=False),
        sa.Column("first_title", sa.String),
        sa.Column("first_photos", sa.JSON, nullable=False),
        sa.Column("second_id", sa.String(200)),
        sa.Column("second_title", sa.String),
        sa.Column("second_photos", sa.JSON, nullable=False),
        sa.Column("same", sa.Boolean, nullable=False),
        sa.Column("said_by", sa.String(200), nullable=False),
        sa.Column("at", sa.DateTime, nullable=False),
        sa.Column("note", sa.String(1000)),
        sa.Column("request_id", sa.String(64)),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_feedback_page", "feedback", ["catalog_pk", "pk"])
    op.create_index("ix_feedback_latest", "feedback", ["catalog_pk", "pair", "said_by", "pk"])


def downgrade() -> None:
    """Removes all feedback."""
    op.drop_table("feedback")
