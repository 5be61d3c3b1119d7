"""Makes a backup of a data folder, also while a service uses it.

The database is copied as of one moment by SQLite's own online backup, inside a read transaction, so that writers neither
wait for it nor make it begin again. Photos are written before the change that names them is committed, and while a backup
holds the lock `photos.lock` none is removed: whatever the copied database names is there to be copied.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Set
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from app import __version__
from app.catalog.backup_files import (
    MANIFEST,
    BackupManifest,
    Show,
    copy_photo,
    fault_in,
    photo_file,
    quiet,
    read_contents,
    read_manifest,
)
from app.catalog.connections import BUSY_TIMEOUT_MS
from app.catalog.data_folder import DATABASE, PHOTOS, PHOTOS_LOCK, refuse_unusable
from app.errors import BackupError, CatalogError
from app.files import locked, replace_folder, sha256_of, sync_tree, write_file

PAGES = 1024  # of the database, copied between two looks at the progress bar
SHOWN = 5  # products named in an error


@dataclass(frozen=True, slots=True)
class Made:
    """A finished backup: its manifest, and how many of its photos were copied and taken over from the one before."""

    manifest: BackupManifest
    copied: int
    reused: int


def backup(data: Path, target: Path, show: Show = quiet, *, allow_missing: bool = False) -> Made:
    """Makes a backup of the data folder `data` in the folder `target`.

    An earlier backup there is replaced once the new one is whole, and not before; its photos are taken over by hard links.

    Args:
        data: which a service may be using.
        target: made if it is not there.
        show: shows how far it is.
        allow_missing: go on without photos that are lost, in the data folder and in the earlier backup.

    Raises:
        BackupError: nothing was made; the earlier backup is as it was.
        CatalogError: the data folder must not be copied.
    """
    _check_places(data, target)
    target = target.resolve()  # it may be called "."
    scratch = target.with_name(f".{target.name}.unfinished")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with locked(target.with_name(f".{target.name}.lock")) as ours:
            if not ours:
                raise BackupError(f"another backup into {target} is being made: wait for it.")
            shutil.rmtree(scratch, ignore_errors=True)
            scratch.mkdir()
            try:
                made = _make(data, target, scratch, show, allow_missing=allow_missing)
                sync_tree(scratch)
                replace_folder(scratch, target)
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
    except OSError as error:
        raise BackupError(f"the backup failed ({error}): free some space, or check permissions, and try again.") from error
    return made


def _check_places(data: Path, target: Path) -> None:
    refuse_unusable(data)
    if not (data / DATABASE).is_file():
        raise BackupError(f"there is no catalog in {data}: set SAMESKU_DATA_DIR to the folder that the service uses.")
    one, other = data.resolve(), target.resolve()
    if one == other or one in other.parents or other in one.parents:
        raise BackupError(f"{target} and the data folder {data} lie in each other: name another folder.")
    if not target.exists():
        return
    if target.is_symlink() or not target.is_dir() or os.path.ismount(target):
        raise BackupError(f"{target} is a link, a mount or no folder, and cannot be replaced: name a folder inside of it.")
    if any(target.iterdir()) and not (target / MANIFEST).is_file():
        raise BackupError(f"{target} holds something that is no backup: name an empty folder, or a new one.")


def _make(data: Path, target: Path, scratch: Path, show: Show, *, allow_missing: bool) -> Made:
    with locked(data / PHOTOS_LOCK, shared=True):
        created_at = datetime.now(UTC)
        database = scratch / DATABASE
        _copy_database(data / DATABASE, database, show)
        try:
            held = read_contents(database)
        except sqlite3.Error as error:
            raise CatalogError(f"the database in {data} cannot be read ({error}): restore a backup.") from error
        sizes, reused = _copy_photos(data, target, scratch, held.digests, show)
        lost = held.digests - sizes.keys()
        if lost and not allow_missing:
            raise BackupError(_lost(database, lost))
    manifest = BackupManifest(
        samesku=__version__, created_at=created_at, revision=held.revision, bundles=held.bundles, catalogs=held.catalogs,
        database_sha256=sha256_of(database), database_bytes=database.stat().st_size, photos=sizes,
        missing=tuple(sorted(lost)),
    )  # fmt: skip
    sync_tree(scratch)
    write_file(scratch / MANIFEST, manifest.model_dump_json(indent=1).encode())
    return Made(manifest, len(sizes) - reused, reused)


def _copy_database(source: Path, target: Path, show: Show) -> None:
    uri = f"{source.resolve().as_uri()}?mode=rw"  # a database that a crash has left is brought into order first
    try:
        with (
            closing(sqlite3.connect(uri, uri=True, isolation_level=None, timeout=BUSY_TIMEOUT_MS / 1000)) as reader,
            closing(sqlite3.connect(target, isolation_level=None)) as writer,
        ):
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM catalogs").fetchone()  # a transaction begins with what it reads first
            (pages,) = reader.execute("PRAGMA page_count").fetchone()
            done = 0
            with show("Copying the database", pages) as tick:

                def advance(_status: int, remaining: int, total: int) -> None:
                    nonlocal done
                    tick(total - remaining - done)
                    done = total - remaining

                reader.backup(writer, pages=PAGES, progress=advance)
            writer.execute("PRAGMA journal_mode = DELETE")  # one file, that nothing lies beside
    except sqlite3.Error as error:
        raise BackupError(f"the database {source} cannot be copied ({error}).") from error
    if fault := fault_in(target, thorough=False):
        raise CatalogError(f"the database {source} is damaged ({fault}): restore a backup; the one from before is kept.")


def _copy_photos(data: Path, target: Path, scratch: Path, digests: Set[str], show: Show) -> tuple[dict[str, int], int]:
    """Brings photos into the new backup; returns the sizes of those that are in it, and how many the old one had."""
    sizes: dict[str, int] = {}
    reused = 0
    before = _sizes_before(target)
    (scratch / PHOTOS).mkdir()
    with show("Copying photos", len(digests)) as tick:
        for digest in sorted(digests):
            place, old = photo_file(scratch, digest), photo_file(target, digest)
            size: int | None = before.get(digest)
            if size is not None and _link(old, place, size):
                reused += 1
            else:
                size = copy_photo(photo_file(data, digest), place, digest)
                if size is None and digest in before:
                    size = copy_photo(old, place, digest)
            if size is not None:
                sizes[digest] = size
            tick(1)
    return sizes, reused


def _sizes_before(target: Path) -> dict[str, int]:
    try:
        return read_manifest(target).photos
    except BackupError:
        return {}


def _link(old: Path, new: Path, size: int) -> bool:
    """Gives a photo of the earlier backup a second name; False where that does not work."""
    try:
        if old.stat().st_size != size:
            return False
        new.parent.mkdir(exist_ok=True)
        new.hardlink_to(old)
    except OSError:
        return False
    return True


def _lost(database: Path, lost: Set[str]) -> str:
    """Says which products have lost photos."""
    some = sorted(lost)[:SHOWN]
    marks = ", ".join("?" * len(some))
    query = (
        f"SELECT DISTINCT id FROM products JOIN photos ON product_pk = products.pk WHERE sha256 IN ({marks}) LIMIT {SHOWN}"  # noqa: S608
    )
    with closing(sqlite3.connect(database)) as connection:
        names = ", ".join(f"'{name}'" for (name,) in connection.execute(query, some))
    return (
        f"{len(lost)} photos are missing or damaged, those of {names} among them: index these products again, or leave the "
        "photos out with --allow-missing."
    )
