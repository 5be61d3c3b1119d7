"""What SQLite says when it cannot do its work, as errors of this program.

What passes by itself, or once somebody has made room, is `StorageUnavailable`: the transaction was rolled back, and the
next one may succeed. A damaged file is a `CatalogError`: it stays damaged.
"""

from __future__ import annotations

import logging
import sqlite3

from sqlalchemy.exc import DatabaseError

from app.errors import AppError, CatalogError, StorageUnavailable

log = logging.getLogger(__name__)

_PASSING = {
    sqlite3.SQLITE_BUSY: "another process holds the database",
    sqlite3.SQLITE_LOCKED: "another process holds the database",
    sqlite3.SQLITE_FULL: "the disk is full",
    sqlite3.SQLITE_READONLY: "the disk is read-only",
    sqlite3.SQLITE_IOERR: "the disk does not answer as it should",
    sqlite3.SQLITE_CANTOPEN: "the database cannot be opened",
    sqlite3.SQLITE_NOMEM: "there is no memory left",
}
_LASTING = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}


def code_of(error: DatabaseError) -> int:
    """Returns SQLite's primary result code, 0 if there is none."""
    code: int = getattr(error.orig, "sqlite_errorcode", 0)
    return code & 0xFF


def fault_of(error: DatabaseError) -> AppError | None:
    """Returns our error for one of the database's; None if it is neither the disk's fault nor the file's."""
    code = code_of(error)
    if code in _PASSING:
        log.error("the database cannot be used", extra={"reason": _PASSING[code], "said": str(error.orig)})
        return StorageUnavailable(f"{_PASSING[code]}: nothing was changed, try again later.")
    if code in _LASTING:
        log.error("the database is damaged: stop the service and restore a backup", extra={"said": str(error.orig)})
        return CatalogError(f"the database is damaged ({error.orig}): stop the service and restore a backup.")
    return None


def may_have_happened(error: BaseException) -> bool:
    """True if a commit failed in such a way that its bytes may be on the disk all the same, to be found after a crash."""
    return isinstance(error, DatabaseError) and code_of(error) == sqlite3.SQLITE_IOERR
