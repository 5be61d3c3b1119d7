"""One data folder, held by one process: database, photos, snapshots.

DATA_DIR/
    lock                held while a process uses the folder
    running             there while a process uses the folder, and after one that did not stop cleanly
    catalog.sqlite      products, photos' names, attributes, vectors: the truth (with -wal and -shm beside it)
    photos/             the photos as they were uploaded, named by SHA-256
    photos.lock         shared by a backup that copies them, so that none is removed meanwhile
    snapshots/          search indexes as of an earlier state; safe to delete
    restoring           there while a backup is being put back (see `app.catalog.restore`)
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
from pathlib import Path

from sqlalchemy import select

from app.catalog import photo_store
from app.catalog.photo_store import PhotoStore
from app.catalog.records import PhotoRow, ProductRow, Records
from app.errors import CatalogError, DataFolderInUse
from app.files import sync

DATABASE, LOCK, RUNNING, RESTORING = "catalog.sqlite", "lock", "running", "restoring"
PHOTOS, PHOTOS_LOCK, SNAPSHOTS = "photos", photo_store.LOCK, "snapshots"
SHOWN = 5  # products named in a log line

log = logging.getLogger(__name__)


class DataFolder:
    """An open data folder."""

    def __init__(self, folder: Path, *, recover: bool = True) -> None:
        """Creates or opens the folder.

        Args:
            folder: where it is.
            recover: see `recover`, which is to be called before anything is read or written otherwise.

        Raises:
            DataFolderInUse: another process has it open.
            CatalogError: it cannot be written, or its database cannot be used.
            StorageUnavailable: the disk is full, or another process holds the database.
        """
        self.folder = folder
        self._running, self._tidy = folder / RUNNING, False
        try:
            is_new = not folder.exists()
            folder.mkdir(parents=True, exist_ok=True)
            if is_new:
                sync(folder.parent)
            self._lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise cannot_be_written(folder, error) from error
        try:
            self._open()
        except OSError as error:
            os.close(self._lock)
            raise cannot_be_written(folder, error) from error
        except BaseException:
            os.close(self._lock)
            raise
        if recover:
            try:
                self.recover()
            except BaseException:
                self.close()
                raise

    def _open(self) -> None:
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DataFolderInUse(
                f"the data folder {self.folder} is in use by another process: stop it, or send products to its API "
                "(POST /catalog/batch)."
            ) from error
        refuse_unusable(self.folder)
        self.photos = PhotoStore(self.folder / PHOTOS)
        self.records = Records(f"sqlite:///{self.folder / DATABASE}")

    def recover(self) -> None:
        """Looks for whatever a crash or a power cut may have left, and says what was found; marks the folder as in use.

        After a crash the whole database is read, to see whether it is sound: seconds, where it is large.

        Raises:
            CatalogError: the database is damaged, or the folder cannot be written.
            StorageUnavailable: the disk is full.
        """
        tidy = True
        try:
            if self._running.exists():
                tidy = self._mended()
            self._running.touch()
            sync(self.folder)
        except OSError as error:
            raise cannot_be_written(self.folder, error) from error
        self._tidy = tidy

    def _mended(self) -> bool:
        """Removes what is half-written; False if photos could not be looked at."""
        self.records.check()
        for scratch in (self.folder / SNAPSHOTS).glob(".*"):
            shutil.rmtree(scratch, ignore_errors=True)
        with self.records.session() as session:
            swept = self.photos.sweep(set(session.scalars(select(PhotoRow.sha256))))
            removed, missing = swept or (0, frozenset[str]())
            owners = select(ProductRow.id).join(PhotoRow).where(PhotoRow.sha256.in_(sorted(missing)[:SHOWN])).limit(SHOWN)
            examples = list(session.scalars(owners)) if missing else []
        log.warning(
            "the last process did not stop cleanly: the database is sound, and what was half-written is gone",
            extra={"orphaned_photos_removed": removed, "missing_photos": len(missing)},
        )
        if missing:
            log.error("photos are missing: index their products again", extra={"photos": len(missing), "products": examples})
        return swept is not None

    def snapshot(self, catalog_pk: int) -> Path:
        """Where the snapshot of a catalog lives."""
        return self.folder / SNAPSHOTS / str(catalog_pk)

    def close(self, *, clean: bool = True) -> None:
        """Closes the database and lets others in. May be called twice.

        Args:
            clean: there is nothing that the next process should look for, such as photos that nobody names any more.
        """
        self.records.close()
        lock, self._lock = self._lock, -1
        if lock >= 0:
            try:
                if clean and self._tidy:
                    self._running.unlink(missing_ok=True)
            except OSError as error:
                log.warning("the stop cannot be marked as a clean one", extra={"reason": error.strerror})
            finally:
                os.close(lock)


def cannot_be_written(folder: Path, error: OSError) -> CatalogError:
    """Returns the error that says so, and what to look at."""
    return CatalogError(
        f"the data folder {folder} cannot be written ({error.strerror}): check its permissions, and the space on its disk."
    )


def refuse_unusable(folder: Path) -> None:
    """Looks at what a folder holds before its database is opened: that would make an empty one where there is none.

    Raises:
        CatalogError: a restore was interrupted, so that the folder holds parts of two states; or the database is gone, and
            what belongs to it, which would be swept away with the next crash, is not.
    """
    if (folder / RESTORING).exists():
        raise CatalogError(
            f"a restore into {folder} was interrupted: run 'python -m app restore' with the same backup again."
        )
    database, log = folder / DATABASE, folder / f"{DATABASE}-wal"
    if database.exists() and database.stat().st_size:
        return
    rests = [*folder.glob(f"{PHOTOS}/??/*"), *folder.glob(f"{SNAPSHOTS}/*")]
    if rests or (log.exists() and log.stat().st_size):
        raise CatalogError(
            f"{database} is missing or empty, but photos, snapshots or its log are there: restore a backup, or move the "
            "whole data folder aside to begin with an empty one."
        )
