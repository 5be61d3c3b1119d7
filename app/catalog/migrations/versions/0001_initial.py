"""Catalogs, products, photos, attributes, vectors."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Creates the first schema."""
    op.create_table(
        "catalogs",
        sa.Column("pk", sa.Integer, primary_key=True),
        sa.Column("name", sa.String(64), nullable=False, unique=True),
        sa.Column("generation", sa.Integer, nullable=False),
    )
    op.create_table(
        "products",
        sa.Column("pk", sa.Integer, primary_key=True),
        sa.Column("catalog_pk", sa.Integer, sa.ForeignKey("catalogs.pk", ondelete="CASCADE"), nullable=False),
        sa.Column("id", sa.String(200), nullable=False),
        sa.Column("title", sa.String),
        sa.Column("attributes", sa.JSON, nullable=False),
        sa.Column("created_at", sa.DateTime, nullable=False),
        sa.Column("updated_at", sa.DateTime, nullable=False),
        sa.UniqueConstraint("catalog_pk", "id"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_products_page", "products", ["catalog_pk", "pk"])
    op.create_table(
        "photos",
        sa.Column("pk", sa.Integer, primary_key=True),
        sa.Column("product_pk", sa.Integer, sa.ForeignKey("products.pk", ondelete="CASCADE"), nullable=False),
        sa.Column("position", sa.Integer, nullable=False),
        sa.Column("sha256", sa.String(64), nullable=False),
        sa.Column("media_type", sa.String, nullable=False),
        sa.Column("width", sa.Integer, nullable=False),
        sa.Column("height", sa.Integer, nullable=False),
    )
    op.create_index("ix_photos_product", "photos", ["product_pk"])
    op.create_index("ix_photos_sha256", "photos", ["sha256"])
    op.create_table(
        "attributes",
        sa.Column("product_pk", sa.Integer, sa.ForeignKey("products.pk", ondelete="CASCADE"), primary_key=True),
        sa.Column("name", sa.String, primary_key=True),
        sa.Column("value", sa.String, nullable=False),
    )
    op.create_index("ix_attributes_filter", "attributes", ["name", "value", "product_pk"])
    op.create_table(
        "vectors",
        sa.Column("pk", sa.Integer, primary_key=True),
        sa.Column("catalog_pk", sa.Integer, sa.ForeignKey("catalogs.pk", ondelete="CASCADE"), nullable=False),
        sa.Column("product_pk", sa.Integer, sa.ForeignKey("products.pk", ondelete="CASCADE"), nullable=False),
        sa.Column("fingerprint", sa.String(16), nullable=False),
        sa.Column("flags", sa.Integer, nullable=False),
        sa.Column("vector", sa.LargeBinary, nullable=False),
    )
    op.create_index("ix_vectors_product", "vectors", ["product_pk"])
    op.create_index("ix_vectors_catalog", "vectors", ["catalog_pk", "fingerprint"])


def downgrade() -> None:
    """Removes everything."""
    for table in ("vectors", "attributes", "photos", "products", "catalogs"):
        op.drop_table(table)
