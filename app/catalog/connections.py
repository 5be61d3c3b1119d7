"""How SQLite is spoken to: what survives, who waits for whom, and for how long."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event

BUSY_TIMEOUT_MS = 10_000


def engine_of(url: str) -> Engine:
    """Returns an engine whose sessions are one transaction each; those of its option `writes` have the database alone."""
    engine = create_engine(url)
    event.listen(engine, "connect", _configure)
    event.listen(engine, "begin", _begin)
    return engine


def _begin(connection: Connection) -> None:
    """Makes every session one transaction, so that all it reads is of one moment."""
    writes = connection.get_execution_options().get("writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _configure(connection: Any, _record: object) -> None:
    """WAL, so that readers never wait; FULL, so that a commit survives a power cut."""
    connection.isolation_level = None  # Python's sqlite3 would begin a transaction only at the first write
    cursor = connection.cursor()
    for pragma in (
        "journal_mode = WAL",
        "synchronous = FULL",
        "foreign_keys = ON",
        f"busy_timeout = {BUSY_TIMEOUT_MS}",
    ):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()
