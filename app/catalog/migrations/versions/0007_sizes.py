"""How many products a catalog holds, kept by every change: a start need not count them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Counts them a last time."""
    op.add_column("catalogs", sa.Column("products", sa.Integer, nullable=False, server_default="0"))
    op.execute("UPDATE catalogs SET products = (SELECT count(*) FROM products WHERE products.catalog_pk = catalogs.pk)")


def downgrade() -> None:
    """Drops the column."""
    op.drop_column("catalogs", "products")
