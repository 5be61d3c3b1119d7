"""Photos as files, named by the SHA-256 of their bytes: stored once, never changed, kept for re-embedding.

Photos are removed under the lock `photos.lock`, which a backup shares while it copies: what its copy of the database
names must still be there when it gets to it. Whoever finds the lock taken removes nothing, and tries again later.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Mapping, Set
from pathlib import Path
from typing import NamedTuple

from app.errors import PhotoNotFound, StorageUnavailable
from app.files import locked, sync, write_files

LOCK = "photos.lock"  # beside the folder of photos

log = logging.getLogger(__name__)


class Sweep(NamedTuple):
    """What a look through all photos found: files removed because nobody names them, and photos that have no file."""

    removed: int
    missing: frozenset[str]


class PhotoStore:
    """Content-addressed files under one folder: `<first two digits>/<digest>`."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.lock = folder, folder.with_name(LOCK)
        folder.mkdir(parents=True, exist_ok=True)

    def file(self, digest: str) -> Path:
        """Where a photo is, or would be."""
        return self.folder / digest[:2] / digest

    def put(self, photos: Mapping[str, bytes]) -> None:
        """Stores photos so that they survive a power cut; those that are stored already, undamaged, are left alone.

        Args:
            photos: bytes by digest.

        Raises:
            StorageUnavailable: one of them could not be written.
        """
        try:
            files = {self.file(digest): data for digest, data in photos.items()}
            new = {file: data for file, data in files.items() if not (file.exists() and file.read_bytes() == data)}
            missing = {file.parent for file in new if not file.parent.exists()}
            for folder in missing:
                folder.mkdir(exist_ok=True)
            if missing:
                sync(self.folder)
            write_files(new)
        except OSError as error:
            log.error("photos cannot be written", extra={"folder": str(self.folder), "reason": error.strerror})
            raise StorageUnavailable(
                f"the photo cannot be stored ({error.strerror}): nothing was changed, try later."
            ) from error

    def get(self, digest: str) -> bytes:
        """Returns a photo.

        Raises:
            PhotoNotFound: the file is missing, or not what its name says.
            StorageUnavailable: it could not be read.
        """
        file = self.file(digest)
        try:
            data = file.read_bytes()
        except FileNotFoundError as error:
            log.error("a photo is missing: index its products again", extra={"file": str(file)})
            raise PhotoNotFound(f"the file of photo {digest} is missing: index the product again.") from error
        except OSError as error:
            log.error("a photo cannot be read", extra={"file": str(file), "reason": error.strerror})
            raise StorageUnavailable(f"photo {digest} cannot be read ({error.strerror}): try later.") from error
        if hashlib.sha256(data).hexdigest() != digest:
            log.error("a photo is damaged: index its products again", extra={"file": str(file)})
            raise PhotoNotFound(f"the file of photo {digest} is damaged: index the product again.")
        return data

    def remove(self, digests: Iterable[str]) -> bool:
        """Removes photos that no product names any more; False, and nothing done, while a backup copies photos.

        Raises:
            OSError: the disk does not allow it.
        """
        with locked(self.lock) as ours:
            for digest in digests if ours else ():
                self.file(digest).unlink(missing_ok=True)
        return ours

    def sweep(self, wanted: Set[str]) -> Sweep | None:
        """Removes photos that are not wanted and files that a crash left half-written; None while a backup copies photos.

        Raises:
            OSError: the disk does not allow it.
        """
        with locked(self.lock) as ours:
            if not ours:
                return None
            files = {file.name: file for file in self.folder.glob("??/*")}
            unwanted = files.keys() - wanted
            for name in unwanted:
                files[name].unlink()
        return Sweep(len(unwanted), frozenset(wanted - files.keys()))
