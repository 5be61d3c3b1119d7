"""Making bundles from pretrained towers, and telling people what is in one."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from app.core.spec import EncoderSpec, FusionSpec, ImageSpec, TitleSpec
from app.encoders import pretrained
from app.encoders.image import ImageTower
from app.encoders.multimodal import load_image_tower, load_title_tower
from app.encoders.preprocess import InputLimits, clean_title, read_photo
from app.encoders.pretrained import origin_of
from app.encoders.quantise import Precision
from app.encoders.title import TitleTokens, TitleTower
from app.errors import AppError, InvalidInput
from app.listings import BadRow, Listing
from app.model_store import Bundle, Manifest, new_manifest, write_bundle
from app.training.projection import principal_components

_TOGETHER = 32  # listings

DEFAULT_THRESHOLDS = {"fused": 0.85, "image": 0.85, "title": 0.9}  # until `calibrate` has fitted the bundle's own


@dataclass(frozen=True, slots=True)
class Recipe:
    """What `bundle create` is to make; see `python -m app bundle create --help`."""

    image_encoder: str | None
    title_encoder: str | None
    weight: float = 0.5
    image: pretrained.ImageOptions = field(default_factory=pretrained.ImageOptions)
    title: pretrained.TitleOptions = field(default_factory=pretrained.TitleOptions)
    image_dim: int | None = None
    title_dim: int | None = None
    precision: Precision = "fp16"


def create(
    recipe: Recipe,
    out: Path,
    listings: Iterable[Listing | BadRow] = (),
    card: str | None = None,
    tick: Callable[[int], None] = lambda _: None,
) -> Bundle:
    """Makes a bundle from pretrained towers.

    Args:
        recipe: which towers, and how they are used.
        out: the bundle's folder; its name is the bundle's name.
        listings: what projections are fitted to; needed with `image_dim` or `title_dim`.
        card: the text of the model card; a plain one is written if None.
        tick: called with the number of listings that are embedded.

    Raises:
        InvalidInput: towers that cannot be loaded, or a recipe that contradicts itself.
        BundleError: `out` is taken by something else.
    """
    if recipe.image_encoder is None and recipe.title_encoder is None:
        raise InvalidInput("a bundle needs at least one tower: give --image-encoder, --title-encoder or both.")
    with_both = recipe.image_encoder is not None and recipe.title_encoder is not None
    weight = recipe.weight if with_both else float(recipe.image_encoder is not None)
    if with_both and not 0 < weight < 1:
        raise InvalidInput(f"--weight is the share of the image cosine and must lie in (0, 1), not {weight}.")

    def fill(folder: Path) -> Manifest:
        image = title = None
        if recipe.image_encoder is not None:
            image = pretrained.image_tower(recipe.image_encoder, recipe.image, folder, recipe.precision)
        if recipe.title_encoder is not None:
            title = pretrained.title_tower(recipe.title_encoder, recipe.title, folder, recipe.precision)
        spec = EncoderSpec(image=image, title=title, fusion=FusionSpec(weight=weight))
        spec = _fit_projections(spec, recipe, folder, listings, tick)
        (folder / "README.md").write_text(card or _plain_card(out.name, recipe), "utf-8")
        origin = {
            "image_encoder": origin_of(recipe.image_encoder),
            "title_encoder": origin_of(recipe.title_encoder),
        }
        thresholds = {modality: [(1, DEFAULT_THRESHOLDS[modality])] for modality in sorted(spec.modalities())}
        return new_manifest(out.name, spec, thresholds, origin=origin, training={"trained": False})

    return write_bundle(out, fill)


def _fit_projections(
    spec: EncoderSpec, recipe: Recipe, folder: Path, listings: Iterable[Listing | BadRow], tick: Callable[[int], None]
) -> EncoderSpec:
    if recipe.image_dim is None and recipe.title_dim is None:
        return spec
    image = load_image_tower(spec, folder).eval() if recipe.image_dim and spec.image else None
    title = load_title_tower(spec, folder).eval() if recipe.title_dim and spec.title else None
    photos, titles = _features(spec, folder, image, title, listings, tick)
    changes: dict[str, ImageSpec | TitleSpec] = {}
    for name, tower, features, dim in (
        ("image", image, photos, recipe.image_dim),
        ("title", title, titles, recipe.title_dim),
    ):
        if tower is not None and dim is not None:
            projection = principal_components(
                np.concatenate([np.zeros((0, tower.spec.features), np.float32), *features]), dim
            )
            int8_words = name == "title" and recipe.title.int8_words
            pretrained.save_tower(tower.backbone, projection, folder / tower.spec.weights, recipe.precision, int8_words)
            changes[name] = tower.spec.model_copy(update={"dim": dim, "projection": True})
    return spec.model_copy(update=changes)


def _features(
    spec: EncoderSpec,
    folder: Path,
    image: ImageTower | None,
    title: TitleTower | None,
    listings: Iterable[Listing | BadRow],
    tick: Callable[[int], None],
) -> tuple[list[Any], list[Any]]:
    tokens = TitleTokens(spec.title, folder / spec.title.tokenizer) if spec.title else None
    limits = InputLimits()
    photos: list[Any] = []
    titles: list[Any] = []
    rows = iter(listings)
    with torch.inference_mode():
        while chunk := list(islice(rows, _TOGETHER)):
            good = [row for row in chunk if isinstance(row, Listing)]
            if image is not None and spec.image is not None:
                pixels = [p for row in good if (p := _pixels(row, spec.image, limits)) is not None]
                if pixels:
                    batch = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2)
                    photos.append(image.features(batch).numpy())
            words = [clean_title(row.title, limits) for row in good if row.title]
            if title is not None and tokens is not None and words:
                titles.append(title.features(tokens(words)).numpy())
            tick(len(chunk))
    return photos, titles


def _pixels(row: Listing, spec: ImageSpec, limits: InputLimits) -> Any:
    try:
        return read_photo(row.images[0], spec.preprocessing, limits, "")[1] if row.images else None
    except AppError:
        return None


def _plain_card(name: str, recipe: Recipe) -> str:
    lines = [f"# {name}", "", "Pretrained towers, not trained on pairs of listings. Thresholds are placeholders until", "",
             "    python -m app calibrate --bundle DIR --listings FILE", "", "has fitted them.", ""]  # fmt: skip
    for side, source in (("image", recipe.image_encoder), ("title", recipe.title_encoder)):
        if source is not None:
            lines.append(f"- {side} encoder: {origin_of(source)}")
    return "\n".join(lines) + "\n"
