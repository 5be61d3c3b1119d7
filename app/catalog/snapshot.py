"""Snapshots of a search index: what makes a restart fast, and is never trusted without proof.

A snapshot is plain NumPy arrays beside a manifest with their SHA-256, the catalog's generation and the bundle's
fingerprint. It is used only if all three agree with the database; anything else means a rebuild from SQL.
FAISS's own files are not used: they load without complaint after a flipped bit, and are not safe to parse.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

import numpy as np

from app.catalog.rows import RowSet
from app.files import replace_folder, sha256_of

MANIFEST = "snapshot.json"
ARRAYS = ("keys", "flags", "vectors")
READ_ROWS = 8192


def save(folder: Path, rows: Iterable[RowSet], shape: tuple[int, int], generation: int, fingerprint: str) -> None:
    """Writes a snapshot into `folder`, replacing the one that is there in one step.

    Args:
        folder: of the snapshot.
        rows: all rows, in parts, of which no copy is made.
        shape: number of rows, dimensions.
        generation: of the catalog.
        fingerprint: of the bundle.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=".snapshot.", dir=folder.parent))
    try:
        _write(scratch, rows, shape)
        digests = {name: sha256_of(scratch / f"{name}.npy") for name in ARRAYS}
        manifest = {"generation": generation, "fingerprint": fingerprint, "sha256": digests}
        (scratch / MANIFEST).write_text(json.dumps(manifest), "utf-8")
        replace_folder(scratch, folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _write(folder: Path, rows: Iterable[RowSet], shape: tuple[int, int]) -> None:
    shapes = {"keys": (np.int64, shape[:1]), "flags": (np.uint8, shape[:1]), "vectors": (np.float32, shape)}
    with ExitStack() as stack:
        streams = {name: stack.enter_context((folder / f"{name}.npy").open("wb")) for name in ARRAYS}
        for name, (dtype, size) in shapes.items():
            header = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": size}
            np.lib.format.write_array_header_1_0(streams[name], header)
        for part in rows:
            for name in ARRAYS:
                getattr(part, name).tofile(streams[name])


def load(folder: Path, generation: int, fingerprint: str, dim: int) -> tuple[Iterator[RowSet] | None, str]:
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
        shapes = {name: _shape_of(folder / f"{name}.npy") for name in ARRAYS}
    except FileNotFoundError:
        return None, "no snapshot"
    except (OSError, ValueError, KeyError, TypeError) as error:
        return None, f"snapshot unreadable: {type(error).__name__}"
    (count,) = shapes["keys"] or (0,)
    if shapes != {"keys": (count,), "flags": (count,), "vectors": (count, dim)}:
        return None, "snapshot of other dimensions"
    return _read(folder, count, dim), "snapshot"


def _shape_of(file: Path) -> tuple[int, ...]:
    with file.open("rb") as stream:
        return _skip_header(stream)


def _skip_header(stream: BinaryIO) -> tuple[int, ...]:
    np.lib.format.read_magic(stream)
    shape: tuple[int, ...] = np.lib.format.read_array_header_1_0(stream)[0]
    return shape


def _read(folder: Path, count: int, dim: int) -> Iterator[RowSet]:
    """Yields the rows in parts: read whole, they would be held twice while the index takes them."""
    with ExitStack() as stack:
        keys, flags, vectors = (stack.enter_context((folder / f"{name}.npy").open("rb")) for name in ARRAYS)
        for stream in (keys, flags, vectors):
            _skip_header(stream)
        for start in range(0, count, READ_ROWS):
            n = min(READ_ROWS, count - start)
            rows = np.fromfile(vectors, np.float32, n * dim).reshape(n, dim)
            yield RowSet(np.fromfile(keys, np.int64, n), np.fromfile(flags, np.uint8, n), rows)
