"""Photos of whole tables: read while the towers work on those before. Threads do on a CPU; see `photo_reader` for a GPU."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain

from app.core.product import Pixels, Upload
from app.errors import AppError

ReadPhoto = tuple[Upload, Pixels]
Outcome = ReadPhoto | AppError
ReadChunks = Callable[[Iterable[Sequence[bytes]]], Iterator[list[Outcome]]]


def readers() -> int:
    """Returns how many photos are read at the same time: one for each core, and some more while others wait."""
    return max(4, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)


def in_threads(read: Callable[[bytes], ReadPhoto], chunks: Iterable[Sequence[bytes]]) -> Iterator[list[Outcome]]:
    """Reads photos in threads, one chunk ahead.

    Args:
        read: reads one photo, or raises an AppError.
        chunks: files that are wanted together.

    Yields:
        For each chunk, what became of each of its files.
    """

    def attempt(data: bytes) -> Outcome:
        try:
            return read(data)
        except AppError as error:
            return error

    with ThreadPoolExecutor(readers()) as pool:
        ahead: Iterator[Outcome] | None = None
        for chunk in chunks:
            current, ahead = ahead, pool.map(attempt, chunk)
            if current is not None:
                yield list(current)
        if ahead is not None:
            yield list(ahead)


def few_or_many(chunks: Iterable[Sequence[bytes]], few: ReadChunks, many: ReadChunks, most: int) -> Iterator[list[Outcome]]:
    """Reads the first chunks in one way, and from the chunk with which there are more photos than `most` in another.

    The other one takes longer to begin and is faster then: a table of a few photos, or of none, is done before.

    Args:
        chunks: files that are wanted together.
        few: reads the first ones.
        many: reads the others.
        most: photos.
    """
    source, rest = iter(chunks), list[Sequence[bytes]]()

    def first() -> Iterator[Sequence[bytes]]:
        left = most
        for chunk in source:
            left -= len(chunk)
            if left < 0:
                rest.append(chunk)
                return
            yield chunk

    yield from few(first())
    if rest:
        yield from many(chain(rest, source))
