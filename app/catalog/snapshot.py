"""Snapshots of a search index: what makes a restart fast, and is never trusted without proof.

A snapshot is plain NumPy arrays beside a manifest with the checksums of their parts, the stamp of the catalog's state and
the bundle's fingerprint. It is used only if they agree with the database; anything else means a rebuild from SQL.
Vectors are not copied from it: they are mapped into memory after they were read and proven. What is written to them later
stays in memory, and the files live as long as somebody maps them, also when a newer snapshot has taken their place.
What searches need beside rows, 8-bit codes or the lists of an approximate search, is kept, too; it is made anew where it is
missing, or another version has made it. FAISS's own files are not used: they load without complaint after a flipped bit, and
are not safe to parse.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from io import BytesIO
from itertools import accumulate, islice, pairwise
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import xxhash
from numpy.typing import NDArray

from app.catalog.row_index import RowIndex
from app.catalog.rows import Precision, RowSet
from app.files import replace_folder

MANIFEST = "snapshot.json"
ARRAYS = ("keys", "flags", "vectors")
READ_BYTES = 1 << 21  # the fastest of those tried, see docs/performance.md
Item = TypeVar("Item")
Made = TypeVar("Made")


class Unusable(Exception):
    """There is no snapshot that is proven to match; the text says why."""


@dataclass(frozen=True, slots=True)
class _Files:
    """The arrays of one snapshot: `count` rows of `dim` columns."""

    folder: Path
    count: int
    dim: int
    precision: Precision

    def file(self, name: str) -> Path:
        return self.folder / f"{name}.npy"

    def layout(self) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
        """Returns the shape and the type of each array."""
        one = (self.count,)
        return {
            "keys": (one, np.dtype(np.int64)),
            "flags": (one, np.dtype(np.uint8)),
            "vectors": ((self.count, self.dim), np.dtype(self.precision)),
        }

    def header(self, name: str) -> bytes:
        """Returns how the file of an array must begin. It is compared and never parsed: it may be damaged."""
        shape, dtype = self.layout()[name]
        stream = BytesIO()
        described = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(stream, described)
        return stream.getvalue()

    def begins_right(self, name: str) -> bool:
        """Says whether the file of an array has the right header."""
        header = self.header(name)
        with self.file(name).open("rb") as stream:
            return stream.read(len(header)) == header

    def rows(self, start: int, end: int) -> RowSet:
        """Maps some rows: what is written to them is not written to the files."""
        found = {}
        for name, (shape, dtype) in self.layout().items():
            # no map can begin within a page, so NumPy maps what is before it, too
            mapped = np.memmap(self.file(name), dtype, "c", self._offset(name, start), (end - start, *shape[1:]))
            found[name] = mapped.view(np.ndarray)
        return RowSet(**found)

    def digest(self, start: int, end: int) -> str:
        """Returns the checksum of some rows, XXH3 of 128 bits: against damage, and not against forgers of the database."""
        digest = xxhash.xxh3_128()
        for name in ARRAYS:
            _read(self.file(name), self._offset(name, start), self._offset(name, end), digest.update)
        return digest.hexdigest()

    def _offset(self, name: str, row: int) -> int:
        shape, dtype = self.layout()[name]
        return len(self.header(name)) + row * dtype.itemsize * int(np.prod(shape[1:], dtype=int))


def _read(file: Path, place: int, end: int, take: Callable[[memoryview], object]) -> None:
    """Reads a part of a file, in pieces.

    It is not mapped for that, so that a sector that cannot be read is an error and not the end of the process.
    """
    buffer = memoryview(bytearray(READ_BYTES))
    with file.open("rb", buffering=0) as stream:
        stream.seek(place)
        while place < end:
            count = stream.readinto(buffer[: end - place])
            if not count:
                raise OSError(errno.EIO, f"{file.name} is cut short")
            take(buffer[:count])
            place += count


def save(folder: Path, index: RowIndex, stamp: str, fingerprint: str) -> None:
    """Writes a snapshot of an index into `folder`, replacing the one that is there in one step. No row is copied.

    `stamp` is of the catalog's state. Raises OSError.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=".snapshot.", dir=folder.parent))
    try:
        files = _Files(scratch, len(index), index.dim, index.precision)
        ends = _write(files, index)
        digests = _ahead(lambda part: files.digest(*part), pairwise([0, *ends]))
        parts = [{"end": end, "xxh3": digest} for end, digest in zip(ends, digests, strict=True)]
        auxiliary = {"layout": index.layout, "files": _write_auxiliary(scratch, index)}
        manifest = {"stamp": stamp, "fingerprint": fingerprint, "parts": parts, "auxiliary": auxiliary}
        (scratch / MANIFEST).write_text(json.dumps(manifest), "utf-8")
        replace_folder(scratch, folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _write(files: _Files, index: RowIndex) -> list[int]:
    """Writes the arrays; returns where the parts of the index end. Read as the same parts, no block of it ever grows."""
    sizes = []
    with ExitStack() as stack:
        streams = {name: stack.enter_context(files.file(name).open("wb")) for name in ARRAYS}
        for name, stream in streams.items():
            stream.write(files.header(name))
        for part in index.export():
            for name in ARRAYS:
                getattr(part, name).tofile(streams[name])
            sizes.append(len(part.keys))
    return list(accumulate(sizes))


def _write_auxiliary(folder: Path, index: RowIndex) -> list[dict[str, Any]]:
    """Writes what searches need beside rows; returns what the manifest says of it."""
    found = []
    for number, (flags, data) in enumerate(index.export_auxiliary()):
        name, digest = f"auxiliary_{number}", _digest_for(flags)
        (folder / name).write_bytes(data)
        digest.update(data)
        found.append({"name": name, "flags": flags, "xxh3": digest.hexdigest()})
    return found


def _digest_for(flags: int) -> xxhash.xxh3_128:
    """Returns the begin of a checksum that also proves which rows something is for: the manifest has none of its own."""
    return xxhash.xxh3_128(bytes([flags]))


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One that is on disk, of which nothing is proven yet."""

    folder: Path
    manifest: Any

    @classmethod
    def find(cls, folder: Path) -> Snapshot:
        """Finds the snapshot in a folder. Raises Unusable."""
        with _problems("snapshot"):
            return cls(folder, json.loads((folder / MANIFEST).read_text("utf-8")))

    @property
    def stamp(self) -> str:
        """Stamp of the catalog's state that it is of. Raises Unusable."""
        with _problems("snapshot"):
            return str(self.manifest["stamp"])

    def rows(self, fingerprint: str, dim: int, precision: Precision) -> Iterator[RowSet]:
        """Yields the rows in parts, each proven to be what was written, while the next ones are read and proven.

        Raises:
            Unusable: it is of another bundle, or a part is damaged; the rows before it are to be thrown away.
        """
        with _problems("snapshot"):
            if self.manifest["fingerprint"] != fingerprint:
                raise Unusable("snapshot made by another bundle")
            ends = [0, *(part["end"] for part in self.manifest["parts"])]
            digests = [part["xxh3"] for part in self.manifest["parts"]]
            files = _Files(self.folder, ends[-1], dim, precision)
            if not all(files.begins_right(name) for name in ARRAYS):
                raise Unusable("snapshot of other dimensions or precision")
            yield from _ahead(lambda part: _proven(files, *part), zip(ends, ends[1:], digests, strict=False))

    def auxiliary(self, layout: str) -> list[tuple[int, NDArray[np.uint8]]]:
        """Returns what searches need beside rows, as an index has exported it, mapped as rows are.

        Raises:
            Unusable: it is damaged, or of another layout.
        """
        with _problems("auxiliary"):
            kept = self.manifest["auxiliary"]
            if kept["layout"] != layout:
                raise Unusable(f"{kept['layout']}, not {layout}")
            return list(_ahead(lambda one: (one["flags"], self._proven_file(**one)), kept["files"]))

    def _proven_file(self, name: str, flags: int, xxh3: str) -> NDArray[np.uint8]:
        file, found = self.folder / name, _digest_for(flags)
        _read(file, 0, file.stat().st_size, found.update)
        if found.hexdigest() != xxh3:
            raise Unusable(f"{name} does not match its checksum")
        return np.memmap(file, np.uint8, "c").view(np.ndarray)


@contextmanager
def _problems(what: str) -> Iterator[None]:
    """Whatever is wrong with a file, or with what stands in it, makes the snapshot unusable."""
    try:
        yield
    except FileNotFoundError as error:
        raise Unusable(f"no {what}") from error
    except (OSError, ValueError, KeyError, IndexError, TypeError) as error:
        raise Unusable(f"{what} unreadable: {type(error).__name__}") from error


def _proven(files: _Files, start: int, end: int, digest: str) -> RowSet:
    if files.digest(start, end) != digest:
        raise Unusable(f"snapshot damaged: rows {start} to {end} do not match their checksum")
    return files.rows(start, end)


def _ahead(make: Callable[[Item], Made], items: Iterable[Item]) -> Iterator[Made]:
    """Yields what is made of each item, in order; a few are made in advance, one on each core but at most four."""
    threads = min(4, os.cpu_count() or 1)
    left = iter(items)
    with ThreadPoolExecutor(threads, thread_name_prefix="snapshot") as pool:
        waiting: deque[Future[Made]] = deque(pool.submit(make, item) for item in islice(left, threads))
        try:
            while waiting:
                yield waiting.popleft().result()
                waiting.extend(pool.submit(make, item) for item in islice(left, 1))
        finally:
            pool.shutdown(cancel_futures=True)
