"""One data folder, held by one process: database, photos, snapshots.

DATA_DIR/
    lock                held while a process uses the folder
    catalog.sqlite      products, photos' names, attributes, vectors: the truth
    photos/             the photos as they were uploaded, named by SHA-256
    snapshots/          search indexes as of the last clean stop; safe to delete
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from app.catalog.photo_store import PhotoStore
from app.catalog.records import Records
from app.errors import CatalogError, DataFolderInUse


class DataFolder:
    """An open data folder. `crashed`: the last process that had it open did not close it."""

    def __init__(self, folder: Path) -> None:
        """Creates or opens the folder.

        Raises:
            DataFolderInUse: another process has it open.
            CatalogError: it cannot be written, or its database cannot be used.
        """
        self.folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise CatalogError(
                f"the data folder {folder} cannot be written ({error.strerror}): check its permissions."
            ) from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self._lock)
            raise DataFolderInUse(
                f"the data folder {folder} is in use by another process: stop it, or send products to its API "
                "(POST /catalog/batch)."
            ) from error
        try:
            self.records = Records(f"sqlite:///{folder / 'catalog.sqlite'}")
            self.photos = PhotoStore(folder / "photos")
            self._running = folder / "running"
            self.crashed = self._running.exists()
            self._running.touch()
        except BaseException:
            os.close(self._lock)
            raise

    def snapshot(self, catalog_pk: int) -> Path:
        """Where the snapshot of a catalog lives."""
        return self.folder / "snapshots" / str(catalog_pk)

    def close(self) -> None:
        """Closes the database and lets others in. May be called twice."""
        self.records.close()
        lock, self._lock = self._lock, -1
        if lock >= 0:
            self._running.unlink(missing_ok=True)
            os.close(lock)
