"""What a backup consists of, and whether it is whole.

DIR/
    backup.json        the manifest, written last: what was copied, when, by which version, with the SHA-256 of every file
    catalog.sqlite     a copy of the database as of one moment: products, vectors, feedback, the hashes of API keys
    photos/            every photo that it names, under its SHA-256
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from app.catalog.data_folder import DATABASE, PHOTOS
from app.errors import BackupError
from app.files import sha256_of

MANIFEST = "backup.json"
DAMAGED = "the backup in {folder} is damaged ({what}): use another one, or make a new one from the data folder."

Tick = Callable[[int], None]
Show = Callable[[str, int], AbstractContextManager[Tick]]  # what is done, and of how many: shows how far it got
Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=0)]


class CatalogEntry(BaseModel):
    """A catalog as it was copied."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    products: Count
    generation: Count


class BackupManifest(BaseModel):
    """`backup.json`.

    Attributes:
        format: of the backup.
        samesku: version that made it.
        created_at: when the database was copied.
        revision: of the database's schema.
        bundles: vectors by the fingerprint of the bundle that made them.
        catalogs: by name.
        database_sha256, database_bytes: of `catalog.sqlite`.
        photos: size in bytes of each, by SHA-256.
        missing: photos that the database names and that were lost before this backup.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    format: Literal[1] = 1
    samesku: str
    created_at: datetime
    revision: str
    bundles: dict[str, Count]
    catalogs: dict[str, CatalogEntry]
    database_sha256: Digest
    database_bytes: Count
    photos: dict[Digest, Count]
    missing: tuple[Digest, ...] = ()

    @property
    def products(self) -> int:
        """How many there are, over all catalogs."""
        return sum(one.products for one in self.catalogs.values())


class Contents(BaseModel):
    """What a copied database says that it holds: the part of the manifest that can be read from it again."""

    model_config = ConfigDict(frozen=True)
    revision: str
    bundles: dict[str, Count]
    catalogs: dict[str, CatalogEntry]
    digests: frozenset[str]


@contextmanager
def quiet(_what: str, _total: int) -> Iterator[Tick]:
    """Shows nothing."""
    yield lambda _done: None


def photo_file(folder: Path, digest: str) -> Path:
    """Where a photo is in a backup, or in a data folder."""
    return folder / PHOTOS / digest[:2] / digest


def copy_photo(source: Path, target: Path, digest: str) -> int | None:
    """Copies a photo if it is what its name says; returns its size in bytes, None if it is missing or damaged."""
    try:
        data = source.read_bytes()
    except FileNotFoundError:
        return None
    if hashlib.sha256(data).hexdigest() != digest:
        return None
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(data)
    return len(data)


def read_manifest(folder: Path) -> BackupManifest:
    """Reads the manifest of a backup; nothing else of it is looked at. Raises BackupError."""
    try:
        text = (folder / MANIFEST).read_bytes()
    except FileNotFoundError as error:
        raise BackupError(
            f"there is no finished backup in {folder} ({MANIFEST} is missing, and it is written last): use another one, or "
            "make a new one with 'python -m app backup'."
        ) from error
    except OSError as error:
        raise BackupError(f"the backup in {folder} cannot be read ({error.strerror}).") from error
    try:
        return BackupManifest.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        what = f"{MANIFEST}: {'.'.join(map(str, first['loc']))}: {first['msg']}"
        raise BackupError(DAMAGED.format(folder=folder, what=what)) from error


def read_contents(database: Path) -> Contents:
    """Reads what a copied database holds. Raises sqlite3.Error."""
    with closing(sqlite3.connect(f"{database.resolve().as_uri()}?mode=ro&immutable=1", uri=True)) as connection:
        revision = connection.execute("SELECT version_num FROM alembic_version").fetchone()[0]
        bundles = dict(connection.execute("SELECT fingerprint, count(*) FROM vectors GROUP BY fingerprint"))
        rows = connection.execute(
            "SELECT name, generation, (SELECT count(*) FROM products WHERE catalog_pk = catalogs.pk) FROM catalogs"
        )
        catalogs = {name: CatalogEntry(products=products, generation=generation) for name, generation, products in rows}
        digests = frozenset(digest for (digest,) in connection.execute("SELECT DISTINCT sha256 FROM photos"))
    return Contents(revision=revision, bundles=bundles, catalogs=catalogs, digests=digests)


def fault_in(database: Path, *, thorough: bool) -> str | None:
    """Returns what is wrong with the structure of a copied database, or None; `thorough` looks at indexes, too."""
    check = "integrity_check" if thorough else "quick_check"
    try:
        with closing(sqlite3.connect(f"{database.resolve().as_uri()}?mode=ro&immutable=1", uri=True)) as connection:
            said = str(connection.execute(f"PRAGMA {check}(1)").fetchone()[0])
    except sqlite3.Error as error:
        return str(error)
    return None if said == "ok" else said


def verify(folder: Path, show: Show = quiet) -> BackupManifest:
    """Reads every byte of a backup and returns its manifest; changes nothing.

    Raises:
        BackupError: it is unfinished or damaged, or something is missing from it.
    """
    manifest = read_manifest(folder)
    try:
        fault = _fault_in_database(folder / DATABASE, manifest)
        if fault is None:
            with show("Verifying photos", len(manifest.photos)) as tick:
                fault = _fault_in_photos(folder, manifest, tick)
    except FileNotFoundError as error:
        fault = f"{Path(str(error.filename)).name} is missing"
    except OSError as error:
        raise BackupError(f"the backup in {folder} cannot be read ({error.strerror}).") from error
    except sqlite3.Error as error:
        fault = f"{DATABASE}: {error}"
    if fault is not None:
        raise BackupError(DAMAGED.format(folder=folder, what=fault))
    return manifest


def _fault_in_database(database: Path, manifest: BackupManifest) -> str | None:
    if sha256_of(database) != manifest.database_sha256:
        return f"{DATABASE} does not match its checksum"
    if fault := fault_in(database, thorough=True):
        return f"{DATABASE}: {fault}"
    held = read_contents(database)
    if (held.revision, held.bundles, held.catalogs) != (manifest.revision, manifest.bundles, manifest.catalogs):
        return f"{MANIFEST} and {DATABASE} contradict each other"
    if held.digests != manifest.photos.keys() | set(manifest.missing):
        return f"{MANIFEST} does not name the photos that {DATABASE} names"
    return None


def _fault_in_photos(folder: Path, manifest: BackupManifest, tick: Tick) -> str | None:
    for digest, size in manifest.photos.items():
        file = photo_file(folder, digest)
        if file.stat().st_size != size or sha256_of(file) != digest:
            return f"photo {digest} does not match its checksum"
        tick(1)
    return None
