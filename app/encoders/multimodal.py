"""Both towers behind one interface: what the rest of the program knows of the model."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from safetensors.torch import load_file

from app.core.product import Floats, Pixels, Upload
from app.core.spec import EncoderSpec
from app.encoders.image import ImageTower
from app.encoders.preprocess import InputLimits, clean_title, read_photo
from app.encoders.quantise import dequantised
from app.encoders.runtime import Runtime
from app.encoders.title import TitleTokens, TitleTower, read_config
from app.errors import DimensionMismatch, EncodingFailed

BATCH = 32


class Encoder(Protocol):
    """What the matcher needs of a model. Real towers here, a small computable fake in the tests."""

    image_dim: int
    title_dim: int

    def read_photo(self, data: bytes) -> tuple[Upload, Pixels]:
        """Checks, decodes and frames a photo; a model without an image tower returns no pixels.

        Raises InvalidImage or PayloadTooLarge.
        """

    def read_title(self, text: str) -> str:
        """Checks and cleans a title. Raises InvalidTitle."""

    def embed_photos(self, pixels: Sequence[Pixels]) -> Floats:
        """Returns `(n, image_dim)` unit rows. Raises EncodingFailed."""

    def embed_titles(self, titles: Sequence[str]) -> Floats:
        """Returns `(n, title_dim)` unit rows. Raises EncodingFailed."""


class MultimodalEncoder:
    """The towers of a verified bundle, on one device. Methods may be called from several threads."""

    def __init__(self, spec: EncoderSpec, folder: Path, runtime: Runtime, limits: InputLimits | None = None) -> None:
        """Loads the towers.

        Args:
            spec: what to build.
            folder: of the bundle whose files have been verified.
            runtime: where to run.
            limits: what input is accepted.

        Raises:
            DimensionMismatch: the weights do not fit the specification.
        """
        self.spec, self.runtime, self.limits = spec, runtime, limits or InputLimits()
        self.image_dim = spec.image.dim if spec.image else 0
        self.title_dim = spec.title.dim if spec.title else 0
        self._image = runtime.place(load_image_tower(spec, folder)) if spec.image else None
        self._title = runtime.place(load_title_tower(spec, folder)) if spec.title else None
        self._tokens = TitleTokens(spec.title, folder / spec.title.tokenizer) if spec.title else None
        self._check_dimensions()

    def _check_dimensions(self) -> None:
        """Embeds something, which also warms the towers up; every shape that weights alone do not prove is proven here."""
        size = self.spec.image.preprocessing.size if self.spec.image else 0
        blank = [np.zeros((size, size, 3), np.uint8)] if size else []
        try:
            found = self.embed_photos(blank).shape[1], self.embed_titles(["a"] if self.title_dim else []).shape[1]
        except EncodingFailed as error:
            raise DimensionMismatch("the towers do not run with these weights: create the bundle again.") from error
        if found != (self.image_dim, self.title_dim):
            wanted = (self.image_dim, self.title_dim)
            raise DimensionMismatch(f"the towers give vectors of {found} dimensions, the manifest says {wanted}.")

    def read_photo(self, data: bytes) -> tuple[Upload, Pixels]:
        """See `Encoder`."""
        how = self.spec.image.preprocessing if self.spec.image else None
        return read_photo(data, how, self.limits, hashlib.sha256(data).hexdigest())

    def read_title(self, text: str) -> str:
        """See `Encoder`."""
        return clean_title(text, self.limits)

    def embed_photos(self, pixels: Sequence[Pixels]) -> Floats:
        """See `Encoder`."""
        tower = self._image
        if tower is None or not len(pixels):
            return np.zeros((0, self.image_dim), np.float32)

        def run(chunk: Sequence[Pixels]) -> torch.Tensor:
            batch = torch.from_numpy(np.stack(chunk)).to(self.runtime.device).permute(0, 3, 1, 2)
            rows: torch.Tensor = tower(batch)
            return rows

        return self._embed(run, [pixels[start : start + BATCH] for start in range(0, len(pixels), BATCH)], "photos")

    def embed_titles(self, titles: Sequence[str]) -> Floats:
        """See `Encoder`. Titles are batched by length, so that little is computed on padding."""
        tower, tokens = self._title, self._tokens
        if tower is None or tokens is None or not len(titles):
            return np.zeros((0, self.title_dim), np.float32)

        def run(chunk: Sequence[str]) -> torch.Tensor:
            rows: torch.Tensor = tower(tokens(chunk).to(self.runtime.device))
            return rows

        order = sorted(range(len(titles)), key=lambda n: len(titles[n]))
        chunks = [[titles[n] for n in order[start : start + BATCH]] for start in range(0, len(order), BATCH)]
        rows = self._embed(run, chunks, "titles")
        restored = np.empty_like(rows)
        restored[order] = rows
        return restored

    def _embed(self, run, chunks: Iterable, what: str) -> Floats:  # type: ignore[no-untyped-def,type-arg]
        try:
            with torch.inference_mode(), self.runtime.autocast():
                rows = torch.cat([run(chunk) for chunk in chunks]).float().cpu().numpy()
        except RuntimeError as error:
            raise EncodingFailed(f"the model failed on {what}: see the log.") from error
        if not np.isfinite(rows).all():
            raise EncodingFailed(f"the model gave numbers that are not finite for {what}: check the bundle.")
        return np.ascontiguousarray(rows, dtype=np.float32)


def load_image_tower(spec: EncoderSpec, folder: Path) -> ImageTower:
    """Builds the image tower of a bundle in float32. Raises DimensionMismatch."""
    if spec.image is None:
        raise ValueError("the bundle has no image tower")
    tower = ImageTower(spec.image)
    _load_weights(tower, folder / spec.image.weights)
    return tower


def load_title_tower(spec: EncoderSpec, folder: Path) -> TitleTower:
    """Builds the title tower of a bundle in float32. Raises DimensionMismatch."""
    if spec.title is None:
        raise ValueError("the bundle has no title tower")
    tower = TitleTower(spec.title, read_config(folder / spec.title.config))
    _load_weights(tower, folder / spec.title.weights)
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
