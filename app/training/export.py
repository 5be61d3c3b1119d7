"""From a trained model to a bundle's files: normalisation folded into the projection, weights stored small."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from app.core.spec import EncoderSpec
from app.encoders.image import ImageTower
from app.encoders.pretrained import save_tower
from app.encoders.quantise import Precision, dequantised
from app.encoders.title import TitleTower
from app.training.model import NormalisedTower, TrainingModel


@dataclass(frozen=True, slots=True)
class Storage:
    """How weights are stored; `int8_words` the word embeddings in 8 bits, whatever the rest."""

    precision: Precision = "fp16"
    int8_words: bool = False


def write_towers(model: TrainingModel, start: Path, folder: Path, storage: Storage) -> EncoderSpec:
    """Writes the weights of the trained towers, and the tokenizer and configuration they started with.

    Args:
        model: trained; its backbones are blended with their start if the configuration says so.
        start: the folder that `app.training.start.prepare` filled.
        folder: of the bundle to be.
        storage: how.

    Returns:
        What the bundle's encoders are to be built from.
    """
    spec, keep = model.spec, model.config.keep
    if model.image is not None and spec.image is not None:
        blend(model.image.tower.backbone, start / spec.image.weights, keep)
        _write(model.image, folder / spec.image.weights, storage.precision, False)
    if model.title is not None and spec.title is not None:
        blend(model.title.tower.backbone, start / spec.title.weights, keep)
        _write(model.title, folder / spec.title.weights, storage.precision, storage.int8_words)
        for name in (spec.title.config, spec.title.tokenizer):
            shutil.copyfile(start / name, folder / name)
    if model.config.fusion == "concat-norm" and spec.image is not None and spec.title is not None:
        weight = min(0.95, max(0.05, float(model.image_share)))
        spec = spec.model_copy(update={"fusion": spec.fusion.model_copy(update={"weight": round(weight, 3)})})
    return spec


def _write(
    tower: NormalisedTower[ImageTower] | NormalisedTower[TitleTower], file: Path, precision: Precision, int8_words: bool
) -> None:
    ngrams = getattr(tower.tower, "ngrams", None)
    extra: dict[str, Tensor] = {"ngrams.weight": ngrams.weight.detach()} if ngrams is not None else {}
    save_tower(tower.tower.backbone, tower.folded(), file, precision, int8_words, extra)


@torch.no_grad()
def blend(backbone: nn.Module, start: Path, keep: float) -> None:
    """Moves the weights of a backbone back towards those in a file, by the share `keep`, in place."""
    if keep == 0:
        return
    before = dequantised(load_file(start))
    for name, tensor in backbone.state_dict().items():
        old = before.get(f"backbone.{name}")
        if old is not None and tensor.is_floating_point():
            tensor.lerp_(old.to(tensor), keep)
