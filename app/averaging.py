"""One bundle of several runs that began at the same towers: the mean of their weights.

Runs that differ in data, seed or length end in one valley of the loss, and the middle of it serves unseen products better
than its edges, at the cost of one tower: Wortsman et al., "Model soups: averaging weights of multiple fine-tuned models
improves accuracy without increasing inference time", arXiv 2203.05482.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

from app.core.spec import ImageSpec, TitleSpec
from app.encoders.quantise import Precision, dequantised, stored_as
from app.errors import InvalidInput
from app.model_store import Bundle, Manifest, load_several, new_manifest, write_bundle

PROJECTION = "projection."


def average(folders: Sequence[Path], out: Path, precision: Precision = "fp16") -> Bundle:
    """Makes a bundle whose backbones and n-gram weights are the means of those of several bundles.

    Projections are the first bundle's: those of other runs may have begun at other principal components. Thresholds and
    the pair model belong to single towers; the first bundle's thresholds are where to start until new ones are fitted.

    Args:
        folders: of the bundles, at least two, of towers that were built alike.
        out: folder of the new bundle; its name is the bundle's name.
        precision: how weights are stored.

    Raises:
        InvalidInput: fewer than two bundles, ensembles, or towers that differ in more than their weights.
        BundleError: a bundle that cannot be loaded, or `out` is taken by something else.
    """
    bundles = load_several(folders, out)
    for other in bundles:
        _check_alike(bundles[0], other)

    def fill(folder: Path) -> Manifest:
        first = bundles[0]
        for tower in _towers(first.manifest):
            save_file(stored_as(_mean(bundles, tower.weights), precision), folder / tower.weights)
            if isinstance(tower, TitleSpec):
                for name in (tower.config, tower.tokenizer):
                    shutil.copyfile(first.folder / name, folder / name)
        names = ", ".join(one.label for one in bundles)
        (folder / "README.md").write_text(
            f"# {out.name}\n\nBackbones and n-gram weights are the means of those of {names}; projections are the first "
            "one's. Fit thresholds with `python -m app calibrate`.\n",
            "utf-8",
        )
        told = {text: {one.label: getattr(one.manifest, text) for one in bundles} for text in ("training", "data")}
        thresholds = {modality: list(points) for modality, points in first.manifest.decision().points.items()}
        return new_manifest(out.name, first.manifest.spec(), thresholds, None, origin=first.manifest.origin, **told)

    return write_bundle(out, fill)


def _towers(manifest: Manifest) -> list[ImageSpec | TitleSpec]:
    return [tower for tower in (manifest.image, manifest.title) if tower is not None]


def _check_alike(first: Bundle, other: Bundle) -> None:
    if first.manifest.parts or other.manifest.parts:
        raise InvalidInput("the weights of ensembles cannot be averaged: average runs, then put the results together.")
    if first.manifest.spec() != other.manifest.spec():
        raise InvalidInput(f"{first.label} and {other.label} are not built alike: only runs of the same towers have a mean.")
    title = first.manifest.title
    files = () if title is None else (title.tokenizer, title.config)
    if any(first.manifest.files[name].sha256 != other.manifest.files[name].sha256 for name in files):
        raise InvalidInput(f"{first.label} and {other.label} cut titles differently: they did not begin at the same tower.")


def _mean(bundles: Sequence[Bundle], file: str) -> dict[str, Tensor]:
    """Returns a tower's weights in float32, the projection of the first bundle among them."""
    found = dequantised(load_file(bundles[0].folder / file))
    varying = [name for name, t in found.items() if t.is_floating_point() and not name.startswith(PROJECTION)]
    for one in bundles[1:]:
        weights = dequantised(load_file(one.folder / file))
        for name in varying:
            found[name] += weights[name]
    return {name: tensor / len(bundles) if name in varying else tensor for name, tensor in found.items()}
