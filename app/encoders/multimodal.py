"""All towers behind one interface: what the rest of the program knows of the model."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch

from app.core.product import Floats, Pixels, Upload
from app.core.spec import EncoderSpec
from app.encoders.engine_cache import EngineCache
from app.encoders.engines import place_image, place_title
from app.encoders.framings import Framings
from app.encoders.image import ImageTower
from app.encoders.preprocess import InputLimits, clean_title, read_framed
from app.encoders.runtime import Runtime
from app.encoders.title import TitleBatch, TitleTokens, TitleTower
from app.encoders.towers import build_image_tower, build_title_tower
from app.errors import DimensionMismatch, EncodingFailed

BATCH = 32


class Encoder(Protocol):
    """What the matcher needs of a model. Real towers here, a small computable fake in the tests."""

    image_dim: int
    title_dim: int
    limits: InputLimits
    side_by_side: bool  # whether photos and titles embedded at the same time are done sooner than one after the other

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


@dataclass(frozen=True, slots=True)
class _PlacedImage:
    """An image tower; `scale` is the square root of its share, `framing` a position among the model's framings."""

    tower: Callable[[torch.Tensor], torch.Tensor]
    scale: float
    framing: int


@dataclass(frozen=True, slots=True)
class _PlacedTitle:
    """A title tower with its own tokenizer; `scale` is the square root of its share."""

    tower: Callable[[TitleBatch], torch.Tensor]
    scale: float
    tokens: TitleTokens


class MultimodalEncoder:
    """The towers of a verified bundle, an ensemble's too, on one device. Methods may be called from several threads."""

    def __init__(
        self,
        spec: EncoderSpec,
        folder: Path,
        runtime: Runtime,
        limits: InputLimits | None = None,
        cache: EngineCache | None = None,
    ) -> None:
        """Loads the towers.

        Args:
            spec: what to build.
            folder: of the bundle whose files have been verified.
            runtime: where to run.
            limits: what input is accepted.
            cache: of towers that were converted for the runtime's engine.

        Raises:
            DimensionMismatch: the weights do not fit the specification.
        """
        self.spec, self.runtime, self.limits = spec, runtime, limits or InputLimits()
        self.image_dim, self.title_dim = spec.image_dim, spec.title_dim
        self.side_by_side = runtime.side_by_side
        self._framings = Framings([tower.preprocessing for tower, _ in spec.image_towers()])
        self._images = [
            _PlacedImage(place_image(tower, folder, runtime, cache), share**0.5, framing)
            for (tower, share), framing in zip(spec.image_towers(), self._framings.of, strict=True)
        ]
        self._titles = []
        for title, share in spec.title_towers():
            tokens = TitleTokens(title, folder / title.tokenizer)
            placed = place_title(title, folder, tokens, runtime, cache)
            self._titles.append(_PlacedTitle(placed, share**0.5, tokens))
        self._check_dimensions()

    def _check_dimensions(self) -> None:
        """Embeds something, which also warms the towers up; every shape that weights alone do not prove is proven here."""
        blank = [self._framings.blank()] if self.image_dim else []
        try:
            found = self.embed_photos(blank).shape[1], self.embed_titles(["a"] if self.title_dim else []).shape[1]
        except EncodingFailed as error:
            raise DimensionMismatch("the towers do not run with these weights: create the bundle again.") from error
        if found != (self.image_dim, self.title_dim):
            wanted = (self.image_dim, self.title_dim)
            raise DimensionMismatch(f"the towers give vectors of {found} dimensions, the manifest says {wanted}.")

    def read_photo(self, data: bytes) -> tuple[Upload, Pixels]:
        """See `Encoder`."""
        upload, framed = read_framed(data, self._framings.kinds, self.limits, hashlib.sha256(data).hexdigest())
        return upload, self._framings.pack(framed)

    def read_title(self, text: str) -> str:
        """See `Encoder`."""
        return clean_title(text, self.limits)

    def embed_photos(self, pixels: Sequence[Pixels]) -> Floats:
        """See `Encoder`."""
        if not self._images or not len(pixels):
            return np.zeros((0, self.image_dim), np.float32)

        def run(chunk: Sequence[Pixels]) -> torch.Tensor:
            batches = [
                torch.from_numpy(framed).to(self.runtime.device).permute(0, 3, 1, 2)
                for framed in self._framings.unpack(chunk)
            ]
            return torch.cat([one.scale * one.tower(batches[one.framing]) for one in self._images], dim=1)

        return self._embed(run, [pixels[start : start + BATCH] for start in range(0, len(pixels), BATCH)], "photos")

    def embed_titles(self, titles: Sequence[str]) -> Floats:
        """See `Encoder`. Titles are batched by length, so that little is computed on padding."""
        if not self._titles or not len(titles):
            return np.zeros((0, self.title_dim), np.float32)

        def run(chunk: Sequence[str]) -> torch.Tensor:
            parts = [one.scale * one.tower(one.tokens(chunk).to(self.runtime.device)) for one in self._titles]
            return torch.cat(parts, dim=1)

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
    return build_image_tower(spec.image, folder)


def load_title_tower(spec: EncoderSpec, folder: Path) -> TitleTower:
    """Builds the title tower of a bundle in float32. Raises DimensionMismatch."""
    if spec.title is None:
        raise ValueError("the bundle has no title tower")
    return build_title_tower(spec.title, folder)
