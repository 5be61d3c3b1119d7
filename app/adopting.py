"""What a bundle decides by, from a sister: the run of the same recipe that kept listings apart for that.

A run on all listings has none left to fit thresholds and a pair model to. Those of a run that left some out fit its scores,
as long as nothing else differs.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from app.errors import InvalidInput
from app.model_store import Bundle, Manifest, load_bundle, write_bundle

_APART = ("run", "workers", "checkpoint_minutes")  # what runs of one recipe may differ in


def adopt(folder: Path, sister: Path) -> Bundle:
    """Gives a bundle the thresholds and the pair model of another; its vectors stay as they are.

    Args:
        folder: of the bundle, which is replaced.
        sister: of the bundle that was trained alike, with listings kept apart.

    Raises:
        InvalidInput: the two were not trained alike.
        BundleError: one of them cannot be loaded.
    """
    own, other = load_bundle(folder), load_bundle(sister)
    _check_alike(own, other)
    old, found = own.manifest, other.manifest
    data = {"calibration": found.data["calibration"]} if "calibration" in found.data else {}
    update = {
        "thresholds": found.thresholds,
        "pairs": found.pairs,
        "data": dict(old.data) | data | {"decisions_of": other.label},
    }

    def fill(scratch: Path) -> Manifest:
        for name in old.files:
            if old.pairs is None or name not in old.pairs.weights.values():
                shutil.copyfile(own.folder / name, scratch / name)
        for name in found.pairs.weights.values() if found.pairs is not None else ():
            shutil.copyfile(other.folder / name, scratch / name)
        return old.model_copy(update=update)

    return write_bundle(own.folder, fill)


def _check_alike(own: Bundle, other: Bundle) -> None:
    if own.folder.resolve() == other.folder.resolve():
        raise InvalidInput(f"{own.folder} is the bundle itself: name the run that kept listings apart.")
    if own.manifest.spec() != other.manifest.spec():
        raise InvalidInput(f"{own.label} and {other.label} are not built alike: their scores do not compare.")
    if not own.manifest.training or _recipe(own) != _recipe(other):
        raise InvalidInput(f"{own.label} and {other.label} are not runs of one recipe: their scores do not compare.")


def _recipe(bundle: Bundle) -> tuple[dict[str, Any], dict[str, Any]]:
    training = {name: value for name, value in bundle.manifest.training.items() if name not in _APART}
    return training, bundle.manifest.origin
