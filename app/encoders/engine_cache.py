"""Converted towers on disk, so that only the first start converts.

    .<bundle>.engines/              next to the bundle's folder, or `<bundle>.engines/` in another one
        <tower>-<key>/
            entry.json              written last: the key, and the SHA-256 of every other file
            wanted.npy              what PyTorch made of the probes
            ...                     files of the engine

The key covers everything that the files depend on. Nothing is believed for its name: files that are not those of the entry,
or not those of the bundle, are made again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from app.core.product import Floats
from app.files import replace_folder, sha256_of

_ENTRY, _WANTED = "entry.json", "wanted.npy"
_FORMAT = 1  # raise it when towers are converted in another way

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Entry:
    """A verified entry: its folder, and the rows that its tower must give for the probes."""

    folder: Path
    wanted: Floats


@dataclass(frozen=True, slots=True)
class EngineCache:
    """Where the converted towers of one bundle are.

    Attributes:
        folders: in order of preference; the first one that can be written takes what is new, all are looked into.
        fingerprint: of the bundle.
    """

    folders: tuple[Path, ...]
    fingerprint: str

    def find(self, tower: str, engine: str) -> Entry | None:
        """Returns the entry of a tower if there is a sound one.

        Args:
            tower: a name that is unique within the bundle.
            engine: name, version and precision.
        """
        for folder in self.folders:
            place = folder / self._name(tower, engine)
            if not place.is_dir():
                continue
            try:
                return self._verified(place)
            except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
                log.warning("a converted tower in the cache is damaged and is made again: %s", error)
        return None

    def store(self, tower: str, engine: str, wanted: Floats, fill: Callable[[Path], None]) -> Entry | None:
        """Writes an entry whole or not at all, in place of older ones of the tower; None where no folder can be written.

        Args:
            tower: see `find`.
            engine: see `find`.
            wanted: `(n, dim)`, what the tower makes of the probes.
            fill: writes the engine's files into a folder.
        """
        for folder in self.folders:
            try:
                folder.mkdir(parents=True, exist_ok=True)
                scratch = Path(tempfile.mkdtemp(prefix=".", dir=folder))
            except OSError:
                continue
            try:
                return self._write(scratch, folder / self._name(tower, engine), tower, wanted, fill)
            except OSError as error:  # a full disk, say: the tower runs without a cache
                log.warning("a converted tower cannot be kept in %s: %s", folder, error)
            finally:
                shutil.rmtree(scratch, ignore_errors=True)
        return None

    def _write(self, scratch: Path, place: Path, tower: str, wanted: Floats, fill: Callable[[Path], None]) -> Entry:
        fill(scratch)
        np.save(scratch / _WANTED, wanted)
        files = {file.name: sha256_of(file) for file in sorted(scratch.iterdir())}
        (scratch / _ENTRY).write_text(json.dumps({"key": place.name, "files": files}, indent=1) + "\n", "utf-8")
        scratch.chmod(0o755)
        replace_folder(scratch, place)
        for other in place.parent.glob(f"{tower}-*"):
            if other != place and len(other.name) == len(place.name):
                shutil.rmtree(other, ignore_errors=True)  # who has it mapped keeps it until the end
        return Entry(place, wanted)

    def _name(self, tower: str, engine: str) -> str:
        covered = json.dumps([_FORMAT, self.fingerprint, tower, engine])
        return f"{tower}-{hashlib.sha256(covered.encode()).hexdigest()[:32]}"

    def _verified(self, place: Path) -> Entry:
        told = json.loads((place / _ENTRY).read_text("utf-8"))
        if told["key"] != place.name:
            raise ValueError(f"{place.name} holds the entry of {told['key']}")
        present = {file.name for file in place.iterdir()} - {_ENTRY}
        if present != told["files"].keys():
            raise ValueError(f"{place.name} lacks files, or has others")
        for name, digest in told["files"].items():
            if sha256_of(place / name) != digest:
                raise ValueError(f"{place.name}/{name} is not the file that was written")
        return Entry(place, np.load(place / _WANTED, allow_pickle=False))


def places(bundle: Path, data: Path, chosen: Path | None) -> tuple[Path, ...]:
    """Returns where converted towers may be kept.

    Args:
        bundle: its folder.
        data: the data folder, for a bundle whose surroundings cannot be written; used if it exists.
        chosen: a folder that takes the place of both.
    """
    whole = bundle.resolve()
    if chosen is not None:
        return (chosen / f"{whole.name}.engines",)
    beside = whole.with_name(f".{whole.name}.engines")
    return (beside, data / f"{whole.name}.engines") if data.is_dir() else (beside,)
