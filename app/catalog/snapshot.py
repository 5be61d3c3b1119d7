"""Snapshots of a search index: what makes a restart fast, and is never trusted without proof.

A snapshot is plain NumPy arrays beside a manifest with their SHA-256, the catalog's generation and the bundle's
fingerprint. It is used only if all three agree with the database; anything else means a rebuild from SQL.
FAISS's own files are not used: they load without complaint after a flipped bit, and are not safe to parse.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path

import numpy as np

from app.catalog.faiss_index import RowSet
from app.files import replace_folder, sha256_of

MANIFEST = "snapshot.json"
ARRAYS = ("keys", "flags", "vectors")


def save(folder: Path, rows: RowSet, generation: int, fingerprint: str) -> None:
    """Writes a snapshot into `folder`, replacing the one that is there in one step."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=".snapshot.", dir=folder.parent))
    try:
        digests = {}
        for name in ARRAYS:
            file = scratch / f"{name}.npy"
            np.save(file, getattr(rows, name), allow_pickle=False)
            digests[name] = sha256_of(file)
        manifest = {"generation": generation, "fingerprint": fingerprint, "sha256": digests}
        (scratch / MANIFEST).write_text(json.dumps(manifest), "utf-8")
        replace_folder(scratch, folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def load(folder: Path, generation: int, fingerprint: str, dim: int) -> tuple[RowSet | None, str]:
    """Returns the rows of a snapshot that is proven to match, or None and the reason why there are none."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text("utf-8"))
        if manifest["generation"] != generation:
            return None, f"snapshot of generation {manifest['generation']}, database at {generation}"
        if manifest["fingerprint"] != fingerprint:
            return None, "snapshot made by another bundle"
        for name in ARRAYS:
            if sha256_of(folder / f"{name}.npy") != manifest["sha256"][name]:
                return None, f"snapshot damaged: {name}.npy does not match its checksum"
        keys, flags, vectors = (np.load(folder / f"{name}.npy", allow_pickle=False) for name in ARRAYS)
    except FileNotFoundError:
        return None, "no snapshot"
    except (OSError, ValueError, KeyError, TypeError) as error:
        return None, f"snapshot unreadable: {type(error).__name__}"
    if vectors.shape != (len(keys), dim) or flags.shape != keys.shape:
        return None, "snapshot of other dimensions"
    return RowSet(keys, flags, vectors), "snapshot"
