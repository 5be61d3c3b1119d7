"""Photos as files, named by the SHA-256 of their bytes: stored once, never changed, kept for re-embedding."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Set
from pathlib import Path

from app.errors import CatalogError
from app.files import write_file


class PhotoStore:
    """Content-addressed files under one folder: `<first two digits>/<digest>`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def _file(self, digest: str) -> Path:
        return self.folder / digest[:2] / digest

    def put(self, digest: str, data: bytes) -> None:
        """Stores a photo so that it survives a power cut; does nothing if it is stored already, undamaged."""
        file = self._file(digest)
        if file.exists() and file.read_bytes() == data:
            return
        file.parent.mkdir(exist_ok=True)
        write_file(file, data)

    def get(self, digest: str) -> bytes:
        """Returns a photo. Raises CatalogError if the file is missing or not what its name says."""
        try:
            data = self._file(digest).read_bytes()
        except OSError as error:
            raise CatalogError(f"photo {digest} is missing from {self.folder}: index the product again.") from error
        if hashlib.sha256(data).hexdigest() != digest:
            raise CatalogError(f"photo {digest} in {self.folder} is damaged: index the product again.")
        return data

    def remove(self, digests: Iterable[str]) -> None:
        """Removes photos that no product names any more."""
        for digest in digests:
            self._file(digest).unlink(missing_ok=True)

    def keep_only(self, wanted: Set[str]) -> int:
        """Removes photos that are not wanted and files that a crash left half-written; returns how many."""
        unwanted = [file for file in self.folder.glob("??/*") if file.name not in wanted]
        for file in unwanted:
            file.unlink()
        return len(unwanted)
