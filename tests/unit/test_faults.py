"""Which of SQLite's errors pass, which last, and which leave it open whether a commit happened."""

from __future__ import annotations

import sqlite3

import pytest
from sqlalchemy.exc import DatabaseError, OperationalError

from app.catalog.faults import fault_of, may_have_happened
from app.errors import CatalogError, StorageUnavailable


def error(code: int) -> DatabaseError:
    said = sqlite3.OperationalError("as SQLite says")
    said.sqlite_errorcode = code
    return OperationalError("COMMIT", {}, said)


@pytest.mark.parametrize(
    ("code", "fault"),
    [
        (sqlite3.SQLITE_FULL, StorageUnavailable),
        (sqlite3.SQLITE_BUSY, StorageUnavailable),
        (sqlite3.SQLITE_BUSY_SNAPSHOT, StorageUnavailable),
        (sqlite3.SQLITE_IOERR_FSYNC, StorageUnavailable),
        (sqlite3.SQLITE_READONLY_DBMOVED, StorageUnavailable),
        (sqlite3.SQLITE_CANTOPEN, StorageUnavailable),
        (sqlite3.SQLITE_NOMEM, StorageUnavailable),
        (sqlite3.SQLITE_CORRUPT, CatalogError),
        (sqlite3.SQLITE_CORRUPT_INDEX, CatalogError),
        (sqlite3.SQLITE_NOTADB, CatalogError),
        (sqlite3.SQLITE_CONSTRAINT, type(None)),
        (sqlite3.SQLITE_ERROR, type(None)),
    ],
)
def test_each_error_is_what_its_cause_makes_it(code: int, fault: type) -> None:
    assert type(fault_of(error(code))) is fault


def test_only_a_commit_that_could_not_be_synced_may_have_happened() -> None:
    assert may_have_happened(error(sqlite3.SQLITE_IOERR_FSYNC))
    assert not may_have_happened(error(sqlite3.SQLITE_FULL))
    assert not may_have_happened(ValueError("before the commit"))
    assert not may_have_happened(StorageUnavailable("a photo"))
