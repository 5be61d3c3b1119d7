"""Puts a backup into a data folder. What was there is kept beside it; an interruption is noticed, and can be made good.

A folder that is a mount cannot be renamed, so its contents are: the database, the photos and the snapshots go into
`before-restore-TIME`, and those of the backup take their places. While that lasts, the file `restoring` keeps everybody
from opening the folder; it names where the old contents go.
"""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from app.catalog.backup_files import DAMAGED, BackupManifest, Show, copy_photo, photo_file, quiet, verify
from app.catalog.data_folder import DATABASE, LOCK, PHOTOS, PHOTOS_LOCK, RESTORING, RUNNING, SNAPSHOTS, cannot_be_written
from app.catalog.records import Records
from app.errors import BackupError, DataFolderInUse
from app.files import locked, sha256_of, sync, sync_tree, write_file

SCRATCH = "restoring.files"
REPLACED = (f"{DATABASE}-wal", f"{DATABASE}-shm", DATABASE, PHOTOS, SNAPSHOTS, RUNNING)
HELD = ("products", "feedback", "api_keys")  # tables whose rows nobody wants to lose


@dataclass(frozen=True, slots=True)
class Restored:
    """The backup that was put back, and the folder with what was there before; None if there was nothing."""

    manifest: BackupManifest
    kept: Path | None


def restore(source: Path, data: Path, show: Show = quiet, *, force: bool = False) -> Restored:
    """Puts the backup in `source` into the data folder `data`.

    The whole backup is read and checked before anything is touched.

    Args:
        source: from `app.catalog.backup`.
        data: made if it is not there; no process may be using it.
        show: shows how far it is.
        force: also if the data folder holds products, feedback or API keys.

    Raises:
        BackupError: the backup is unfinished, damaged or of a newer version, or the data folder is not empty.
        DataFolderInUse: a service, a command or a backup is using the data folder.
        CatalogError: the data folder cannot be written.
    """
    manifest = verify(source, show)
    if manifest.revision not in Records.revisions():
        raise BackupError(f"the backup was made by samesku {manifest.samesku}, which is newer than this: upgrade first.")
    try:
        data.mkdir(parents=True, exist_ok=True)
        with locked(data / LOCK) as ours, locked(data / PHOTOS_LOCK) as alone:
            if not (ours and alone):
                raise DataFolderInUse(f"the data folder {data} is in use: stop the service, or wait for the backup of it.")
            interrupted = (data / RESTORING).exists()
            if not force and not interrupted and _holds_something(data / DATABASE):
                raise BackupError(
                    f"{data} holds products, feedback or API keys, or a database that cannot be read: name an empty folder, "
                    "or give --force, which keeps what is there in a folder beside it."
                )
            _copy(source, data / SCRATCH, manifest, show)
            kept = _swap(data)
    except OSError as error:
        raise cannot_be_written(data, error) from error
    return Restored(manifest, kept)


def _holds_something(database: Path) -> bool:
    if not database.exists():
        return False
    try:
        with closing(sqlite3.connect(database)) as connection:
            return any(connection.execute(f"SELECT 1 FROM {table} LIMIT 1").fetchone() for table in HELD)  # noqa: S608
    except sqlite3.Error:
        return True


def _copy(source: Path, scratch: Path, manifest: BackupManifest, show: Show) -> None:
    """Copies the backup to where it can take its place by renaming, and sees that the copies are right."""
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        (scratch / PHOTOS).mkdir(parents=True)
        with show("Copying photos", len(manifest.photos)) as tick:
            for digest in manifest.photos:
                if copy_photo(photo_file(source, digest), photo_file(scratch, digest), digest) is None:
                    raise BackupError(DAMAGED.format(folder=source, what=f"photo {digest} has changed meanwhile"))
                tick(1)
        shutil.copyfile(source / DATABASE, scratch / DATABASE)
        if sha256_of(scratch / DATABASE) != manifest.database_sha256:
            raise BackupError(DAMAGED.format(folder=source, what=f"{DATABASE} has changed meanwhile"))
        sync_tree(scratch)
    except BaseException:
        shutil.rmtree(scratch, ignore_errors=True)
        raise


def _swap(data: Path) -> Path | None:
    """Moves the old contents aside and the new ones in. What an earlier, interrupted try has moved stays where it is."""
    marker, scratch = data / RESTORING, data / SCRATCH
    if not marker.exists():
        write_file(marker, f"before-restore-{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}".encode())
    kept = data / marker.read_text("utf-8")
    for name in REPLACED:
        old = data / name
        if not old.exists():
            continue
        if (kept / name).exists():  # so this one is of the try that was interrupted
            shutil.rmtree(old) if old.is_dir() else old.unlink()
        else:
            kept.mkdir(exist_ok=True)
            old.rename(kept / name)
    if kept.exists():
        sync(kept)
    for name in (PHOTOS, DATABASE):
        (scratch / name).rename(data / name)
    scratch.rmdir()
    for torn in data.glob(f".{RESTORING}.*"):
        torn.unlink()
    sync(data)
    marker.unlink()
    sync(data)
    return kept if kept.exists() else None
