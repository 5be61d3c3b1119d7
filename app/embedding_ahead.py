"""Whole tables from bytes to embeddings: what comes next is read while the towers work."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice, tee
from typing import TypeVar

from app.core.product import Embedding, Prepared, Upload
from app.embedding import Item, Read, embed, joined
from app.encoders.ahead import Outcome
from app.encoders.base import Encoder
from app.errors import AppError

Row = TypeVar("Row")


@dataclass(frozen=True, slots=True)
class Embedded:
    """A product or query that was read and embedded.

    Attributes:
        uploads: its photos.
        title: clean, or None.
        known: title and hash, as far as the model reads them; without pixels.
        embedding: its vectors.
    """

    uploads: tuple[Upload, ...]
    title: str | None
    known: Prepared
    embedding: Embedding


Found = Embedded | AppError | None


def embed_ahead(
    encoder: Encoder, rows: Iterable[Row], item: Callable[[Row], Item | None], size: int
) -> Iterator[list[tuple[Row, Found]]]:
    """Embeds rows in chunks, one chunk or more ahead of who takes them.

    Args:
        encoder: reads and embeds.
        rows: any number of them.
        item: returns the photos and the title of a row; None if there is nothing to embed.
        size: rows of a chunk.

    Yields:
        The rows of a chunk, each with its embedding, with the reason why it cannot have one, or with None.

    Raises:
        EncodingFailed: the towers failed on a chunk; those before it have been yielded.
        Exception: what `rows` raised, after the chunks before it have been yielded.
    """
    source = Ended(rows)
    waiting: deque[tuple[list[Row], Future[list[Found]]]] = deque()
    with ThreadPoolExecutor(encoder.at_once) as towers:
        try:
            for chunk, read in _read_ahead(encoder, source, item, size):
                waiting.append((chunk, towers.submit(_embedded, encoder, read)))
                if len(waiting) > encoder.at_once:
                    yield _done(*waiting.popleft())
            while waiting:
                yield _done(*waiting.popleft())
        finally:  # whoever takes no more needs no more
            towers.shutdown(wait=False, cancel_futures=True)
    if source.failure is not None:
        raise source.failure


class Ended(Iterator[Row]):
    """Rows that end where their source fails, so that what came before is not lost; `failure` is what it raised."""

    def __init__(self, source: Iterable[Row]) -> None:
        self._source = iter(source)
        self.failure: Exception | None = None

    def __next__(self) -> Row:
        try:
            return next(self._source)
        except StopIteration:
            raise
        except Exception as error:  # noqa: BLE001 - raised when everything before it is done
            self.failure = error
        raise StopIteration


def _done(rows: list[Row], found: Future[list[Found]]) -> list[tuple[Row, Found]]:
    return list(zip(rows, found.result(), strict=True))


def _read_ahead(
    encoder: Encoder, rows: Iterable[Row], item: Callable[[Row], Item | None], size: int
) -> Iterator[tuple[list[Row], list[Read | AppError | None]]]:
    """Yields chunks of rows as they were read, while the photos of the chunks after are being read."""
    kept, ahead = tee([(row, item(row)) for row in chunk] for chunk in _chunks(rows, size))
    photos = encoder.read_photos([data for _, one in chunk if one is not None for data in one.images] for chunk in ahead)
    for outcomes, chunk in zip(photos, kept, strict=True):
        found = iter(outcomes)
        yield [row for row, _ in chunk], [_read(encoder, one, found) for _, one in chunk]


def _read(encoder: Encoder, item: Item | None, outcomes: Iterator[Outcome]) -> Read | AppError | None:
    """Reads an item, whose photos are the next of the outcomes."""
    if item is None:
        return None
    own = list(islice(outcomes, len(item.images)))
    try:
        return joined(encoder, own, item.title, clean=item.clean)
    except AppError as error:
        return error


def _embedded(encoder: Encoder, read: Sequence[Read | AppError | None]) -> list[Found]:
    embeddings = iter(embed(encoder, [one[0] for one in read if isinstance(one, tuple)]))
    return [_joined(*one, next(embeddings)) if isinstance(one, tuple) else one for one in read]


def _joined(prepared: Prepared, uploads: tuple[Upload, ...], title: str | None, embedding: Embedding) -> Embedded:
    return Embedded(uploads, title, Prepared((), prepared.title, prepared.phash), embedding)


def _chunks(rows: Iterable[Row], size: int) -> Iterator[list[Row]]:
    source = iter(rows)
    while chunk := list(islice(source, size)):
        yield chunk
