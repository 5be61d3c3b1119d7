"""All towers behind one interface: what the rest of the program knows of the model."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from app.core.product import Floats, Pixels, Upload
from app.core.spec import EncoderSpec
from app.encoders.ahead import Outcome, few_or_many, in_threads
from app.encoders.engine_cache import EngineCache
from app.encoders.engines import place_image, place_title
from app.encoders.framings import Framings
from app.encoders.image import ImageTower
from app.encoders.photo_reader import PhotoReader
from app.encoders.preprocess import InputLimits, clean_title, read_framed
from app.encoders.runtime import Runtime, sent
from app.encoders.title import TitleBatch, TitleTokens, TitleTower
from app.encoders.towers import build_image_tower, build_title_tower
from app.errors import DimensionMismatch, EncodingFailed

FEW_PHOTOS = 256  # threads have read them before processes would have begun
Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class _PlacedImage:
    """An image tower; `scale` is the square root of its share, `framing` a position among the model's framings."""

    tower: Callable[[Tensor], Tensor]
    scale: float
    framing: int


@dataclass(frozen=True, slots=True)
class _PlacedTitle:
    """A title tower with its own tokenizer; `scale` is the square root of its share."""

    tower: Callable[[TitleBatch], Tensor]
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
        self.image_dim, self.title_dim, self.batch = spec.image_dim, spec.title_dim, runtime.batch
        self.at_once = runtime.streams
        beside = runtime.streams > 1
        self._beside = ThreadPoolExecutor(runtime.streams, thread_name_prefix="titles") if beside else None
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

    def read_photos(self, chunks: Iterable[Sequence[bytes]]) -> Iterator[list[Outcome]]:
        """See `Encoder`."""
        threads = partial(in_threads, self.read_photo)
        if self.runtime.device.type == "cpu":
            return threads(chunks)
        return few_or_many(chunks, threads, PhotoReader(self._framings, self.limits, self.runtime.device), FEW_PHOTOS)

    def read_title(self, text: str) -> str:
        """See `Encoder`."""
        return clean_title(text, self.limits)

    def embed_photos(self, pixels: Sequence[Pixels]) -> Floats:
        """See `Encoder`."""
        return self._embed("photos", self._photo_rows, pixels)()

    def embed_titles(self, titles: Sequence[str]) -> Floats:
        """See `Encoder`. Titles are batched by length, so that little is computed on padding."""
        return self._embed("titles", self._title_rows, titles)()

    def embed(self, photos: Sequence[Pixels], titles: Sequence[str]) -> tuple[Floats, Floats]:
        """See `Encoder`. While a GPU computes on the photos, the titles are cut; on cores enough for both they are read."""
        if self._beside is not None and len(photos) and len(titles):
            reading = self._beside.submit(self.embed_titles, titles)
            return self.embed_photos(photos), reading.result()
        images, words = self._embed("photos", self._photo_rows, photos), self._embed("titles", self._title_rows, titles)
        return images(), words()

    def _photo_rows(self, pixels: Sequence[Pixels]) -> Tensor:
        if not self._images or not len(pixels):
            return torch.zeros(0, self.image_dim)
        return torch.cat([self._photo_chunk(pixels[at : at + self.batch]) for at in range(0, len(pixels), self.batch)])

    def _photo_chunk(self, pixels: Sequence[Pixels]) -> Tensor:
        packed = self.runtime.host((len(pixels), *pixels[0].shape))
        np.stack(pixels, out=packed.numpy())
        framed = [one.permute(0, 3, 1, 2) for one in self._framings.unpack(sent(packed, self.runtime.device))]
        return torch.cat([one.scale * one.tower(framed[one.framing]) for one in self._images], dim=1)

    def _title_rows(self, titles: Sequence[str]) -> Tensor:
        if not self._titles or not len(titles):
            return torch.zeros(0, self.title_dim)
        order = sorted(range(len(titles)), key=lambda n: len(titles[n]))
        chunks = [[titles[n] for n in order[at : at + self.batch]] for at in range(0, len(order), self.batch)]
        rows = torch.cat([self._title_chunk(chunk) for chunk in chunks])
        return rows[sent(torch.tensor(order).argsort(), rows.device)]

    def _title_chunk(self, titles: Sequence[str]) -> Tensor:
        parts = [one.scale * one.tower(one.tokens(titles).to(self.runtime.device)) for one in self._titles]
        return torch.cat(parts, dim=1)

    def _embed(self, what: str, rows_of: Callable[[Sequence[Item]], Tensor], items: Sequence[Item]) -> Callable[[], Floats]:
        """Begins, and returns what waits for the end. Both raise EncodingFailed."""
        with self._failing(what), torch.inference_mode():
            begun = rows_of(items)

        def wait() -> Floats:
            with self._failing(what):
                rows = begun.float().cpu().numpy()
            if not np.isfinite(rows).all():
                raise EncodingFailed(f"the model gave numbers that are not finite for {what}: check the bundle.")
            return np.ascontiguousarray(rows, dtype=np.float32)

        return wait

    @contextmanager
    def _failing(self, what: str) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            raise EncodingFailed(f"the model failed on {what}: see the log.") from error


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
