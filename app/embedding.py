"""From what was sent to embeddings: one item at a time is read, in any thread, and many are embedded together.

What the matcher does with single requests and the command line with whole tables; the slow part of both.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from concurrent.futures import Executor
from itertools import islice
from typing import TypeVar

import numpy as np

from app.core.product import Embedding, Pixels, Prepared, Upload
from app.encoders.base import Encoder
from app.errors import EmptyProduct

_EVERY = 499  # bytes between those of a picture that are looked at first

Value = TypeVar("Value")
Row = TypeVar("Row")
Outcome = TypeVar("Outcome")


def read(encoder: Encoder, images: Sequence[bytes], title: str | None) -> tuple[Prepared, tuple[Upload, ...], str | None]:
    """Checks and decodes a product or a query.

    Returns:
        What the towers take (only what this model reads), the photos as uploaded, and the clean title.

    Raises:
        EmptyProduct: neither photo nor title, or none that this model reads. Others as `Encoder`.
    """
    if not images and title is None:
        raise EmptyProduct("there is neither a photo nor a title: send at least one of them.")
    clean = None if title is None else encoder.read_title(title)
    read = [encoder.read_photo(data) for data in images]
    photos = tuple(pixels for _, pixels in read) if encoder.image_dim else ()
    phash = read[0][0].photo.phash if read else None
    prepared = Prepared(photos, clean if encoder.title_dim else None, phash)
    if prepared.empty:
        lacking = "titles" if images else "photos"
        raise EmptyProduct(f"this model does not read what was sent: send {lacking}, or load another bundle.")
    return prepared, tuple(upload for upload, _ in read), clean


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


def readers() -> int:
    """Returns how many photos are decoded at the same time: one for each core, and some more while others wait."""
    return max(4, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


def read_ahead(
    pool: Executor, read: Callable[[Row], Outcome], rows: Iterable[Row], size: int
) -> Iterator[tuple[Sequence[Row], Iterator[Outcome]]]:
    """Yields chunks of rows with what `read` makes of them, while the chunk after is being read.

    If the rows end with an error, it is raised after the chunks before it have been yielded.
    """
    ahead: tuple[Sequence[Row], Iterator[Outcome]] | None = None
    chunks = _chunks(rows, size)
    failure: Exception | None = None
    while True:
        try:
            chunk = next(chunks, None)
        except Exception as error:  # noqa: BLE001 - raised below, when the chunk before it is done
            chunk, failure = None, error
        current, ahead = ahead, None if chunk is None else (chunk, pool.map(read, chunk))
        if current is not None:
            yield current
        if failure is not None:
            raise failure
        if ahead is None:
            return


def _chunks(rows: Iterable[Row], size: int) -> Iterator[Sequence[Row]]:
    source = iter(rows)
    while chunk := list(islice(source, size)):
        yield chunk
