"""From what was sent to embeddings: one item at a time is read, in any thread, and many are embedded together.

What the matcher does with single requests and the command line with whole tables; the slow part of both.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import NamedTuple, TypeVar

import numpy as np

from app.core.product import Embedding, Pixels, Prepared, Upload
from app.encoders.ahead import Outcome, ReadPhoto
from app.encoders.base import Encoder
from app.errors import AppError, EmptyProduct

_EVERY = 1999  # bytes between those of a picture that are looked at first

Value = TypeVar("Value")


Read = tuple[Prepared, tuple[Upload, ...], str | None]  # what the towers take, the photos as uploaded, the clean title


class Item(NamedTuple):
    """A product or a query before it is read: photos and title, which is `clean` already if it was stored."""

    images: Sequence[bytes]
    title: str | None
    clean: bool = False


def read(encoder: Encoder, images: Sequence[bytes], title: str | None) -> Read:
    """Checks and decodes a product or a query.

    Returns:
        What the towers take (only what this model reads), the photos, and the title.

    Raises:
        EmptyProduct: neither photo nor title, or none that this model reads. Others as `Encoder`.
    """
    return joined(encoder, map(encoder.read_photo, images), title)


def joined(encoder: Encoder, outcomes: Iterable[Outcome], title: str | None, *, clean: bool = False) -> Read:
    """Returns and raises as `read`, for photos that have been read, or could not be, and perhaps a clean title."""
    if title is not None and not clean:
        title = encoder.read_title(title)
    read: list[ReadPhoto] = []
    for one in outcomes:
        if isinstance(one, AppError):
            raise one
        read.append(one)
    if not read and title is None:
        raise EmptyProduct("there is neither a photo nor a title: send at least one of them.")
    photos = tuple(pixels for _, pixels in read) if encoder.image_dim else ()
    phash = read[0][0].photo.phash if read else None
    prepared = Prepared(photos, title if encoder.title_dim else None, phash)
    if prepared.empty:
        lacking = "titles" if read else "photos"
        raise EmptyProduct(f"this model does not read what was sent: send {lacking}, or load another bundle.")
    return prepared, tuple(upload for upload, _ in read), title


def embed(encoder: Encoder, items: Sequence[Prepared]) -> list[Embedding]:
    """See `Matcher.embed`. Equal photos (pixel for pixel, as framed) and equal titles go through the towers once."""
    photos, photo_of = once([photo for item in items for photo in item.photos], _Picture)
    titles, title_of = once([item.title for item in items if item.title is not None], str)
    photo_rows, title_rows = encoder.embed(photos, titles)
    images = photo_rows[np.array(photo_of, np.intp)]
    words = iter(title_rows[np.array(title_of, np.intp)])
    ends = np.cumsum([len(item.photos) for item in items])
    return [
        Embedding(images[end - len(item.photos) : end], None if item.title is None else next(words))
        for item, end in zip(items, ends, strict=True)
    ]


def once(values: Sequence[Value], key: Callable[[Value], Hashable]) -> tuple[list[Value], list[int]]:
    """Returns the first of each set of values with one key, in order, and which of them stands for each value."""
    if len(values) < 2:  # a single request, most of the time: nothing to share
        return list(values), list(range(len(values)))
    places: dict[Hashable, int] = {}
    standing = [places.setdefault(key(value), len(places)) for value in values]
    firsts = dict(zip(reversed(standing), reversed(values), strict=True))
    return [firsts[place] for place in range(len(places))], standing


class _Picture:
    """Pixels as a key. Few of them tell most photos apart, all of them are compared only where those few agree."""

    __slots__ = ("_hash", "_pixels")

    def __init__(self, pixels: Pixels) -> None:
        self._pixels = pixels
        self._hash = hash((pixels.shape, pixels.ravel()[::_EVERY].tobytes()))

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Picture) and np.array_equal(self._pixels, other._pixels)
