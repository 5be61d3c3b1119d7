"""The photos in a zip that a stranger has packed."""

from __future__ import annotations

import threading
import zipfile
from collections import Counter
from dataclasses import dataclass
from typing import IO, BinaryIO, cast

from app.errors import InvalidInput, PayloadTooLarge

SMALL_BYTES = 1024 * 1024  # of what is smaller, nobody minds how well it is packed
ENTRY_BYTES = 160  # of the table of contents, for each entry that is allowed


@dataclass(frozen=True, slots=True)
class ArchiveLimits:
    """What is unpacked.

    Attributes:
        photo_bytes: of one photo.
        entries: in an archive, whether they are asked for or not.
        ratio: bytes that one packed byte of an entry may become, if the entry is larger than a megabyte.
        unpacked_bytes: of an archive in all; an entry that is asked for twice counts twice.
    """

    photo_bytes: int
    entries: int
    ratio: int
    unpacked_bytes: int


class PhotoArchive:
    """Reads entries by their names, which are only looked up and never used as paths. Safe to call from several threads."""

    def __init__(self, file: BinaryIO, limits: ArchiveLimits) -> None:
        """Reads the table of contents.

        Raises:
            InvalidInput: it is no zip file. PayloadTooLarge: it has too many entries.
        """
        self._limits, self._unpacked, self._counting = limits, 0, threading.Lock()
        bounded = _Bounded(file, limits.entries * ENTRY_BYTES + SMALL_BYTES)
        try:
            self._archive = zipfile.ZipFile(cast("IO[bytes]", bounded))
        except PayloadTooLarge:
            raise
        except Exception as error:  # zipfile raises whatever it trips over, from struct.error to IndexError
            raise InvalidInput("photos is not a zip file, or is cut off: pack it again.") from error
        bounded.most = None  # entries are measured one by one
        if len(self._archive.filelist) > limits.entries:
            raise _too_many(limits.entries)
        counts = Counter(entry.filename for entry in self._archive.filelist)
        self._repeated = {name for name, count in counts.items() if count > 1}

    def read(self, name: str) -> bytes:
        """Returns an entry.

        Raises:
            InvalidInput: there is none of that name, or more than one, or it cannot be unpacked.
            PayloadTooLarge: it is too large, too well packed, or one too many.
        """
        shown, limits = f"photo '{name[:80]}'", self._limits
        if name in self._repeated:  # programs do not agree which of them counts
            raise InvalidInput(f"{shown} is in the zip more than once: give every photo a name of its own.")
        try:
            entry = self._archive.getinfo(name)
            self._check(entry, shown)
            with self._archive.open(entry) as stream:
                data = stream.read(limits.photo_bytes + 1)
        except (InvalidInput, PayloadTooLarge):
            raise
        except KeyError:
            raise InvalidInput(f"{shown} is not in the zip: use the names inside the archive.") from None
        except Exception as error:  # as above, and zlib.error
            raise InvalidInput(f"{shown} cannot be unpacked: pack the zip again, without a password.") from error
        if len(data) > limits.photo_bytes:
            raise _too_large(shown, limits)
        return data

    def _check(self, entry: zipfile.ZipInfo, shown: str) -> None:
        limits, size = self._limits, entry.file_size
        if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # others unpack without a bound
            raise InvalidInput(f"{shown} is packed in an unusual way: pack the zip again with deflate.")
        if size > limits.photo_bytes:
            raise _too_large(shown, limits)
        if size > SMALL_BYTES and size > limits.ratio * entry.compress_size:
            raise PayloadTooLarge(f"{shown} is more than {limits.ratio} times as large as its packed form: save it as JPEG.")
        with self._counting:
            self._unpacked += size
            if self._unpacked > limits.unpacked_bytes:
                raise PayloadTooLarge(f"the zip unpacks to more than {limits.unpacked_bytes:,} bytes: split it.")


class _Bounded:
    """A file of which no more than `most` bytes are read at once: a table of contents is read in one go."""

    def __init__(self, file: BinaryIO, most: int) -> None:
        self._file, self.most = file, cast("int | None", most)
        self.seek, self.tell, self.seekable = file.seek, file.tell, file.seekable

    def read(self, size: int = -1) -> bytes:
        if self.most is None:
            return self._file.read(size)
        data = self._file.read(self.most + 1 if size < 0 else min(size, self.most + 1))
        if len(data) > self.most:
            raise _too_many(self.most // ENTRY_BYTES)
        return data


def _too_many(entries: int) -> PayloadTooLarge:
    return PayloadTooLarge(f"the zip has more than {entries:,} entries, or very long names: split it.")


def _too_large(shown: str, limits: ArchiveLimits) -> PayloadTooLarge:
    return PayloadTooLarge(f"{shown} has more than {limits.photo_bytes:,} bytes: scale it down.")
