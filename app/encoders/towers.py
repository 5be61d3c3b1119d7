"""The towers of a bundle as PyTorch modules, built from its files."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file

from app.core.spec import ImageSpec, TitleSpec
from app.encoders.image import ImageTower
from app.encoders.quantise import dequantised
from app.encoders.title import TitleTower, read_config
from app.errors import DimensionMismatch


def build_image_tower(spec: ImageSpec, folder: Path) -> ImageTower:
    """Builds an image tower in float32. Raises DimensionMismatch."""
    tower = ImageTower(spec)
    _load_weights(tower, folder / spec.weights)
    return tower


def build_title_tower(spec: TitleSpec, folder: Path) -> TitleTower:
    """Builds a title tower in float32. Raises DimensionMismatch."""
    tower = TitleTower(spec, read_config(folder / spec.config))
    _load_weights(tower, folder / spec.weights)
    return tower


def _load_weights(tower: torch.nn.Module, file: Path) -> None:
    weights = dequantised(load_file(file))
    try:
        tower.load_state_dict(weights)
    except RuntimeError as error:
        first = str(error).splitlines()[1:2] or [str(error)]
        raise DimensionMismatch(
            f"{file.name} does not fit the manifest ({first[0].strip()}): create the bundle again."
        ) from error
