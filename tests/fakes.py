"""A model whose vectors can be computed by hand.

A photo's vector is its mean colour, `[red, green, blue] / 255`, normalised. A title's vector counts letters:
`a` in the first dimension, `b` in the second, ... modulo 8, normalised; a title without letters points to the last one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from io import BytesIO

import numpy as np
from PIL import Image

from app.core.fusion import Fusion
from app.core.product import Floats, Pixels, Upload
from app.core.spec import Preprocessing
from app.encoders.ahead import Outcome, in_threads
from app.encoders.preprocess import InputLimits, clean_title, read_photo
from app.errors import EncodingFailed

FUSION = Fusion(weight=0.36, image_dim=3, title_dim=8)
FINGERPRINT = "feedfacecafebeef"
POISON = "poison"
SQUARE = Preprocessing(size=32, framing="stretch", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


class FakeEncoder:
    """Real decoding and cleaning, computable vectors. The title `poison` makes its whole batch fail."""

    image_dim = FUSION.image_dim
    title_dim = FUSION.title_dim
    batch = 32
    at_once = 1

    def __init__(self, limits: InputLimits | None = None) -> None:
        self.limits = limits or InputLimits()
        self.batches: list[int] = []

    def read_photo(self, data: bytes) -> tuple[Upload, Pixels]:
        return read_photo(data, SQUARE, self.limits, hashlib.sha256(data).hexdigest())

    def read_photos(self, chunks: Iterable[Sequence[bytes]]) -> Iterator[list[Outcome]]:
        return in_threads(self.read_photo, chunks)

    def read_title(self, text: str) -> str:
        return clean_title(text, self.limits)

    def embed_photos(self, pixels: Sequence[Pixels]) -> Floats:
        return np.array([colour_vector(one) for one in pixels], np.float32).reshape(-1, self.image_dim)

    def embed_titles(self, titles: Sequence[str]) -> Floats:
        self.batches.append(len(titles))
        if POISON in titles:
            raise EncodingFailed("poisoned")
        return np.array([letter_vector(one) for one in titles], np.float32).reshape(-1, self.title_dim)

    def embed(self, photos: Sequence[Pixels], titles: Sequence[str]) -> tuple[Floats, Floats]:
        return self.embed_photos(photos), self.embed_titles(titles)


def colour_vector(pixels: Pixels) -> Floats:
    """The unit vector of a photo."""
    mean = pixels.reshape(-1, 3).mean(axis=0) + 1e-3  # black has a direction too
    vector: Floats = (mean / np.linalg.norm(mean)).astype(np.float32)
    return vector


def letter_vector(title: str) -> Floats:
    """The unit vector of a title."""
    counts = np.zeros(FUSION.title_dim)
    for letter in title.lower():
        if "a" <= letter <= "z":
            counts[(ord(letter) - ord("a")) % FUSION.title_dim] += 1
    if not counts.any():
        counts[-1] = 1
    return (counts / np.linalg.norm(counts)).astype(np.float32)


def photo(colour: tuple[int, int, int], size: tuple[int, int] = (40, 40), kind: str = "PNG") -> bytes:
    """A photo file of one colour."""
    stream = BytesIO()
    Image.new("RGB", size, colour).save(stream, kind)
    return stream.getvalue()


class Clock:
    """Seconds, as the test says."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now
