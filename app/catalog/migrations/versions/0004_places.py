"""Cursors and numbers that count within a catalog: those of one must not tell how much happens in others."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

RANKS = """UPDATE {table} SET {column} = ranked.n FROM (
    SELECT pk, row_number() OVER (PARTITION BY catalog_pk ORDER BY pk) AS n FROM {table}
) AS ranked WHERE ranked.pk = {table}.pk"""


def upgrade() -> None:
    """Numbers products and statements in the order in which they came."""
    op.add_column("catalogs", sa.Column("places", sa.Integer, nullable=False, server_default="0"))
    for table, column in (("products", "place"), ("feedback", "number")):
        op.add_column(table, sa.Column(column, sa.Integer, nullable=False, server_default="0"))
        op.execute(RANKS.format(table=table, column=column))
        op.drop_index(f"ix_{table}_page", table)
        op.create_index(f"ix_{table}_page", table, ["catalog_pk", column], unique=True)
    counted = "SELECT count(*) FROM products WHERE products.catalog_pk = catalogs.pk"
    op.execute(f"UPDATE catalogs SET places = ({counted})")  # noqa: S608 - constants


def downgrade() -> None:
    """Goes back to keys that count over all catalogs."""
    for table, column in (("products", "place"), ("feedback", "number")):
        op.drop_index(f"ix_{table}_page", table)
        op.create_index(f"ix_{table}_page", table, ["catalog_pk", "pk"])
        op.drop_column(table, column)
    op.drop_column("catalogs", "places")
