"""Snapshots of a search index: what makes a restart fast, and is never trusted without proof.

A snapshot is plain NumPy arrays beside a manifest with their SHA-256, the catalog's generation and the bundle's
fingerprint. It is used only if all three agree with the database; anything else means a rebuild from SQL.
FAISS's own files are not used: they load without complaint after a flipped bit, and are not safe to parse.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from app.catalog.row_index import RowIndex
from app.catalog.rows import Precision, RowSet
from app.files import replace_folder, sha256_of

MANIFEST = "snapshot.json"
ARRAYS = ("keys", "flags", "vectors")
READ_ROWS = 8192


def save(folder: Path, index: RowIndex, generation: int, fingerprint: str) -> None:
    """Writes a snapshot of an index into `folder`, replacing the one that is there in one step. No row is copied."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=".snapshot.", dir=folder.parent))
    try:
        _write(scratch, index)
        digests = {name: sha256_of(scratch / f"{name}.npy") for name in ARRAYS}
        manifest = {"generation": generation, "fingerprint": fingerprint, "sha256": digests}
        (scratch / MANIFEST).write_text(json.dumps(manifest), "utf-8")
        replace_folder(scratch, folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _layout(count: int, dim: int, precision: Precision) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
    """Returns the shape and the type of each array."""
    one = (count,)
    return {
        "keys": (one, np.dtype(np.int64)),
        "flags": (one, np.dtype(np.uint8)),
        "vectors": ((count, dim), np.dtype(precision)),
    }


def _write(folder: Path, index: RowIndex) -> None:
    with ExitStack() as stack:
        streams = {name: stack.enter_context((folder / f"{name}.npy").open("wb")) for name in ARRAYS}
        for name, (shape, dtype) in _layout(len(index), index.dim, index.precision).items():
            header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(streams[name], header)
        for part in index.export():
            for name in ARRAYS:
                getattr(part, name).tofile(streams[name])


def load(
    folder: Path, generation: int, fingerprint: str, dim: int, precision: Precision
) -> tuple[Iterator[RowSet] | None, str]:
    """Returns the rows of a snapshot that is proven to match, in parts, or None and the reason why there are none."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text("utf-8"))
        if manifest["generation"] != generation:
            return None, f"snapshot of generation {manifest['generation']}, database at {generation}"
        if manifest["fingerprint"] != fingerprint:
            return None, "snapshot made by another bundle"
        for name in ARRAYS:
            if sha256_of(folder / f"{name}.npy") != manifest["sha256"][name]:
                return None, f"snapshot damaged: {name}.npy does not match its checksum"
        found = {name: _header(folder / f"{name}.npy") for name in ARRAYS}
    except FileNotFoundError:
        return None, "no snapshot"
    except (OSError, ValueError, KeyError, TypeError) as error:
        return None, f"snapshot unreadable: {type(error).__name__}"
    shape = found["vectors"][0]
    if len(shape) != 2 or found != _layout(shape[0], dim, precision):
        return None, "snapshot of other dimensions or precision"
    return _read(folder, shape[0], dim, precision), "snapshot"


def _header(file: Path) -> tuple[tuple[int, ...], np.dtype[Any]]:
    with file.open("rb") as stream:
        return _skip_header(stream)


def _skip_header(stream: BinaryIO) -> tuple[tuple[int, ...], np.dtype[Any]]:
    np.lib.format.read_magic(stream)
    shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
    return shape, dtype


def _read(folder: Path, count: int, dim: int, precision: Precision) -> Iterator[RowSet]:
    """Yields the rows in parts: read whole, they would be held twice while the index takes them."""
    with ExitStack() as stack:
        keys, flags, vectors = (stack.enter_context((folder / f"{name}.npy").open("rb")) for name in ARRAYS)
        for stream in (keys, flags, vectors):
            _skip_header(stream)
        for start in range(0, count, READ_ROWS):
            n = min(READ_ROWS, count - start)
            rows = np.fromfile(vectors, precision, n * dim).reshape(n, dim)
            yield RowSet(np.fromfile(keys, np.int64, n), np.fromfile(flags, np.uint8, n), rows)
