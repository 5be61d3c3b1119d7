"""Runs the migrations on the engine that `app.catalog.records` hands over."""

from __future__ import annotations

from alembic import context

from app.catalog.records import Base

with context.config.attributes["engine"].connect() as connection:
    context.configure(connection=connection, target_metadata=Base.metadata, render_as_batch=True)
    with context.begin_transaction():
        context.run_migrations()
    connection.commit()
