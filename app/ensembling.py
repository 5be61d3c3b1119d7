"""Bundles from bundles: ensembles, and towers that were trained apart joined into one model.

The towers of an ensemble answer together: its cosine is the weighted mean of theirs, as if their similarities were
averaged, which is how the winners of Shopee - Price Match Guarantee (Kaggle, 2021) put their models together.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from app.core.decision import MODALITIES, Thresholds
from app.core.spec import EncoderSpec, FusionSpec, ImageSpec, PartSpec, TitleSpec
from app.encoders.pretrained import IMAGE_WEIGHTS, TITLE_CONFIG, TITLE_WEIGHTS, TOKENIZER
from app.errors import InvalidInput
from app.model_store import Bundle, Manifest, load_several, new_manifest, write_bundle

Points = dict[str, list[tuple[int, float]]]
Tower = TypeVar("Tower", ImageSpec, TitleSpec)

DEFAULT_WEIGHT = 0.5  # where no bundle has both towers, and so none has a w
_IMAGE_FILES = {"weights": IMAGE_WEIGHTS}
_TITLE_FILES = {"weights": TITLE_WEIGHTS, "config": TITLE_CONFIG, "tokenizer": TOKENIZER}


@dataclass(frozen=True, slots=True)
class _Given:
    """A bundle to put together with others, and its share before shares are made to sum to 1."""

    bundle: Bundle
    spec: EncoderSpec
    share: float


def combine(
    folders: Sequence[Path], out: Path, weight: float | None = None, shares: Sequence[float] | None = None
) -> Bundle:
    """Makes one bundle of several.

    With one image tower and one title tower in all, the result is an ordinary bundle of both. Otherwise it is an ensemble;
    the parts of ensembles among the given bundles become its own.

    Args:
        folders: of the bundles, at least two; each may read photos, titles or both.
        out: folder of the new bundle; its name is the bundle's name.
        weight: w, in (0, 1); by default the mean of the bundles that have one, else 0.5.
        shares: how much each bundle counts, above 0, in any unit; by default all alike. They are made to sum to 1 among
            the bundles that read photos, and among those that read titles.

    Raises:
        InvalidInput: bundles or numbers that do not go together.
        BundleError: a bundle that cannot be loaded, or `out` is taken by something else.
    """
    given = _load(folders, out, shares)
    sources, parts = zip(*_flattened(given), strict=True)
    _check_distinct(parts)
    joined = sum(part.image is not None for part in parts) == sum(part.title is not None for part in parts) == 1
    if joined and shares is not None:
        raise InvalidInput("shares are between towers of one kind, and there is one of each: give a weight instead.")
    w = _weight(given, weight)

    def fill(folder: Path) -> Manifest:
        copied = tuple(
            _copied(part, source, folder, "" if joined else f"{number}-")
            for number, (source, part) in enumerate(zip(sources, parts, strict=True))
        )
        spec = _spec(copied, joined, w)
        (folder / "README.md").write_text(_card(out.name, spec, copied, folder), "utf-8")
        texts = {text: _told(given, text) for text in ("origin", "training", "data")}
        return new_manifest(out.name, spec, _thresholds(given, w), None, **texts)

    return write_bundle(out, fill)


def _spec(parts: tuple[PartSpec, ...], joined: bool, weight: float) -> EncoderSpec:
    fusion = FusionSpec(weight=weight)
    if not joined:
        return EncoderSpec(image=None, title=None, fusion=fusion, parts=parts)
    image = next(part.image for part in parts if part.image)
    title = next(part.title for part in parts if part.title)
    return EncoderSpec(image=image, title=title, fusion=fusion)


def _load(folders: Sequence[Path], out: Path, shares: Sequence[float] | None) -> list[_Given]:
    counted = [1.0] * len(folders) if shares is None else list(shares)
    if len(counted) != len(folders):
        raise InvalidInput(f"there are {len(folders)} bundles and {len(counted)} shares: give one share for each.")
    if not all(math.isfinite(share) and share > 0 for share in counted):
        raise InvalidInput("shares are numbers above 0: leave out a bundle that is not to count.")
    bundles = load_several(folders, out)
    return [_Given(one, one.manifest.spec(), share) for one, share in zip(bundles, counted, strict=True)]


def _flattened(given: Sequence[_Given]) -> list[tuple[Path, PartSpec]]:
    """Returns all parts with the folders of their files, and the shares that they have in the whole."""
    photos = sum(one.share for one in given if one.spec.image_dim)
    titles = sum(one.share for one in given if one.spec.title_dim)
    found = []
    for one in given:
        for part in one.spec.parts or (_whole(one),):
            image_share = part.image_share * one.share / photos if part.image else 0.0
            title_share = part.title_share * one.share / titles if part.title else 0.0
            changed = part.model_copy(update={"image_share": image_share, "title_share": title_share})
            found.append((one.bundle.folder, changed))
    return found


def _whole(one: _Given) -> PartSpec:
    image, title = one.spec.image, one.spec.title
    return PartSpec(
        name=one.bundle.manifest.name, fingerprint=one.bundle.fingerprint, image=image, title=title,
        image_share=float(image is not None), title_share=float(title is not None),
    )  # fmt: skip


def _check_distinct(parts: Sequence[PartSpec]) -> None:
    seen: dict[str, str] = {}
    for part in parts:
        if part.fingerprint in seen:
            raise InvalidInput(
                f"'{part.name}' and '{seen[part.fingerprint]}' are the same model ({part.fingerprint}): "
                "give it once, with a larger share."
            )
        seen[part.fingerprint] = part.name


def _weight(given: Sequence[_Given], wanted: float | None) -> float:
    photos, titles = any(one.spec.image_dim for one in given), any(one.spec.title_dim for one in given)
    if not (photos and titles):
        if wanted is not None:
            raise InvalidInput(f"these bundles read {'photos' if photos else 'titles'} only: leave the weight out.")
        return float(photos)
    own = [one.spec.fusion.weight for one in given if "fused" in one.spec.modalities()]
    weight = wanted if wanted is not None else round(sum(own) / len(own), 6) if own else DEFAULT_WEIGHT
    if not 0 < weight < 1:
        raise InvalidInput(f"the weight is the share of the image cosine and must lie in (0, 1), not {weight}.")
    return weight


def _thresholds(given: Sequence[_Given], weight: float) -> Points:
    """Returns the means of the bundles' thresholds, weighted by share: where to start until the ensemble's are fitted."""
    found: Points = {}
    for modality in MODALITIES:
        able = [(one.share, one.bundle.manifest.decision(), modality) for one in given if modality in one.spec.modalities()]
        if able:
            found[modality] = _mean(able)
    if {"image", "title"} == found.keys():  # no bundle has both, so none knows a fused cosine: it is the mean of these
        own = Thresholds(found)
        found["fused"] = _mean([(weight, own, "image"), (1 - weight, own, "title")])
    return found


def _mean(terms: Sequence[tuple[float, Thresholds, str]]) -> list[tuple[int, float]]:
    sizes = sorted({size for _, thresholds, modality in terms for size, _ in thresholds.points[modality]})
    total = sum(share for share, _, _ in terms)
    return [(size, round(sum(share * t.at(modality, size) for share, t, modality in terms) / total, 6)) for size in sizes]


def _copied(part: PartSpec, source: Path, folder: Path, prefix: str) -> PartSpec:
    """Copies the files of a part and returns it with their new names."""
    image = _moved(part.image, _IMAGE_FILES, source, folder, prefix) if part.image else None
    title = _moved(part.title, _TITLE_FILES, source, folder, prefix) if part.title else None
    return part.model_copy(update={"image": image, "title": title})


def _moved(tower: Tower, names: Mapping[str, str], source: Path, folder: Path, prefix: str) -> Tower:
    for field, name in names.items():
        shutil.copyfile(source / getattr(tower, field), folder / f"{prefix}{name}")
    return tower.model_copy(update={field: f"{prefix}{name}" for field, name in names.items()})


def _told(given: Sequence[_Given], text: str) -> dict[str, Any]:
    manifests = [(one.bundle.manifest, one.bundle.fingerprint) for one in given]
    return {"parts": [{"name": m.name, "fingerprint": mark, text: getattr(m, text)} for m, mark in manifests]}


def _card(name: str, spec: EncoderSpec, parts: Sequence[PartSpec], folder: Path) -> str:
    if spec.parts:
        about = f"An ensemble of {len(parts)} bundles. Its cosine is the mean of their cosines, weighted by share."
    else:
        about = "The image tower of one bundle and the title tower of another, trained apart."
    rows = ["| part | tower | share | dimensions | MB |", "|---|---|---|---|---|"]
    for part in parts:
        for tower, share in ((part.image, part.image_share), (part.title, part.title_share)):
            if tower is not None:
                size = sum((folder / file).stat().st_size for file in tower.files) / 1e6
                label = f"{part.name}@{part.fingerprint}"
                rows.append(f"| {label} | {_tower(tower)} | {share:.3f} | {tower.dim} | {size:.1f} |")
    dims = f"{spec.image_dim} dimensions for photos, {spec.title_dim} for titles"
    fused = f"; fused with w = {spec.fusion.weight:g}, the share of the image cosine" if "fused" in spec.modalities() else ""
    fit = ["Thresholds are means of the parts' thresholds: where to start, not fitted to these vectors. Fit them with", "",
           "    python -m app calibrate --bundle DIR --listings FILE"]  # fmt: skip
    source = "What the parts were made from and trained on is in `bundle.json`, under `origin`, `training` and `data`."
    return "\n".join([f"# {name}", "", about, "", *rows, "", f"{dims}{fused}.", "", *fit, "", source]) + "\n"


def _tower(tower: ImageSpec | TitleSpec) -> str:
    if isinstance(tower, TitleSpec):
        return f"title, prefix '{tower.prefix}', {tower.max_tokens} tokens"
    return f"image, {tower.architecture}, {tower.preprocessing.size} px {tower.preprocessing.framing}"
