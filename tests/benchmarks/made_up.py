"""What a benchmark of the towers needs where there is little: weights that are missing, and many photos out of few.

Made-up weights have the shapes of the real ones, so they cost the same; their vectors mean nothing.
"""

from __future__ import annotations

import csv
import io
import random
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from PIL import Image, ImageEnhance
from safetensors.torch import save_file
from torch import nn

from app.core.spec import EncoderSpec, ImageSpec, TitleSpec
from app.encoders.image import ImageTower
from app.encoders.preprocess import InputLimits, open_image
from app.encoders.quantise import quantised
from app.encoders.title import TitleTower, read_config

SAMPLES = Path(__file__).parent.parent.parent / "samples"
_WORDS = (2, 12)  # of a title: about 22 tokens, as shops have


def complete(spec: EncoderSpec, source: Path, target: Path) -> list[str]:
    """Copies the files of the towers, and makes up weights that are missing.

    Args:
        spec: of a bundle that is no ensemble.
        source: a folder with its tokenizer and configuration, and whatever weights there are.
        target: an empty folder.

    Returns:
        The names of the weights that were made up.
    """
    made: list[str] = []
    for tower in spec.towers():
        for name in tower.files:
            if (source / name).exists():
                shutil.copyfile(source / name, target / name)
            elif name == tower.weights:
                torch.manual_seed(0)
                save_file(_image(tower) if isinstance(tower, ImageSpec) else _title(tower, target, source), target / name)
                made.append(name)
    return made


def _image(spec: ImageSpec) -> dict[str, torch.Tensor]:
    tower = ImageTower(spec)
    with torch.no_grad():
        norms = [part for part in tower.modules() if isinstance(part, nn.BatchNorm2d)]
        for norm in norms:
            norm.momentum = None  # statistics are those of what was seen: without them, values vanish on their way
        tower.train()(torch.randint(0, 256, (8, 3, spec.preprocessing.size, spec.preprocessing.size), dtype=torch.uint8))
    return {name: one.contiguous() for name, one in tower.state_dict().items()}


def _title(spec: TitleSpec, *folders: Path) -> dict[str, torch.Tensor]:
    config = next(folder / spec.config for folder in reversed(folders) if (folder / spec.config).exists())
    tower = TitleTower(spec, read_config(config))
    table = cast("Any", tower.backbone).get_input_embeddings().weight
    name = next(name for name, one in tower.named_parameters() if one is table)
    weights = {name: one.contiguous() for name, one in tower.state_dict().items()}
    return weights | quantised(name, table.detach())


def photos(count: int, run: Callable[[Callable[[int], bytes], Sequence[int]], Sequence[bytes]]) -> list[bytes]:
    """Returns JPEG files, no two of them equal: the sample photos, cut, turned and lit differently.

    Args:
        count: how many.
        run: a `map`, of a thread pool say.
    """
    files = sorted((SAMPLES / "catalog").iterdir())
    images = [open_image(file.read_bytes(), InputLimits()) for file in files]

    def edit(number: int) -> bytes:
        draw = random.Random(number)
        image = images[number % len(images)]
        width, height = image.size
        left, top = draw.randrange(1 + width // 12), draw.randrange(1 + height // 12)
        cut = image.crop((left, top, width - draw.randrange(1 + width // 12), height - draw.randrange(1 + height // 12)))
        stream = io.BytesIO()
        lit = ImageEnhance.Brightness(cut).enhance(draw.uniform(0.7, 1.3))
        lit.resize(image.size, Image.Resampling.BILINEAR).save(stream, "JPEG", quality=85)
        return stream.getvalue()

    return list(run(edit, range(count)))


def titles(count: int) -> list[str]:
    """Returns titles of words of the samples, in an order of their own."""
    with (SAMPLES / "catalog.csv").open(encoding="utf-8", newline="") as stream:
        words = " ".join(row["title"] for row in csv.DictReader(stream)).split()
    draw = random.Random(0)
    return [" ".join(draw.sample(words, draw.randint(*_WORDS))) for _ in range(count)]
