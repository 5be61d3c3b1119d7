"""Whole tables embedded in threads and in processes: the same rows, the same order, the same errors."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from app.core.product import Prepared
from app.embedding import Item, embed, joined
from app.embedding_ahead import Embedded, Found, embed_ahead
from app.encoders.ahead import Outcome
from app.encoders.base import Encoder
from app.encoders.multimodal import MultimodalEncoder
from app.encoders.photo_reader import PhotoReader
from app.encoders.runtime import choose
from app.errors import EncodingFailed, InvalidInput
from app.model_store import read_manifest
from tests import tiny
from tests.fakes import POISON, FakeEncoder
from tests.unit import photos
from tests.unit.photos import saved

CHUNK = 100
POISONED = f"{POISON} pill"


class Failing(MultimodalEncoder):
    """Fails on one title."""

    def embed(self, pixels: Any, titles: Any) -> Any:
        if POISONED in titles:
            raise EncodingFailed("poisoned")
        return super().embed(pixels, titles)


class InProcesses(Failing):
    """Reads photos in processes, as on a GPU."""

    def read_photos(self, chunks: Iterable[Sequence[bytes]]) -> Iterator[list[Outcome]]:
        return PhotoReader(self._framings, self.limits, self.runtime.device, processes=2)(chunks)


@pytest.fixture(scope="module")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, MultimodalEncoder]:
    folder = tiny.bundle(tmp_path_factory.mktemp("ahead"))
    given = read_manifest(folder).spec(), folder, choose("cpu", "torch")
    return {"threads": Failing(*given), "processes": InProcesses(*given)}


def items(count: int) -> list[Item | None]:
    """Products of all kinds, some of which cannot be read, and rows that are not to be."""
    shots = [saved(photos.scene(n, 40 + n, 50), "JPEG") for n in range(7)]
    kinds: list[Callable[[int], Item | None]] = [
        lambda n: Item([shots[n % 7]], f"apple {n}"),
        lambda n: Item([], f"pear &amp; {n}"),
        lambda n: Item(shots[: n % 3 + 1], None),
        lambda n: None,
        lambda n: Item([shots[0], b"no photo"], "half"),
        lambda n: Item([], None),
        lambda n: Item([], "&amp;amp;", clean=True),
    ]
    return [kinds[n % len(kinds)](n) for n in range(count)]


def told(found: Found) -> object:
    """What can be compared exactly."""
    if isinstance(found, Embedded):
        return found.uploads, found.title, found.known, found.embedding.images.shape, found.embedding.title is None
    return type(found), str(found)


def vectors(found: Found) -> list[Any]:
    if not isinstance(found, Embedded):
        return []
    return [*found.embedding.images, *([] if found.embedding.title is None else [found.embedding.title])]


@pytest.mark.parametrize("way", ["threads", "processes"])
def test_rows_come_in_order_each_with_what_it_has_by_itself(encoders: dict[str, MultimodalEncoder], way: str) -> None:
    encoder, given = encoders[way], items(3 * CHUNK - 7)
    chunks = list(embed_ahead(encoder, enumerate(given), lambda row: row[1], CHUNK))
    assert [len(chunk) for chunk in chunks] == [CHUNK, CHUNK, CHUNK - 7]
    rows = [row for chunk in chunks for row in chunk]
    assert [number for (number, _), _ in rows] == list(range(len(given)))
    for (_, item), found in rows[:40]:
        wanted = alone(encoder, item)
        assert told(found) == told(wanted)
        for one, other in zip(vectors(found), vectors(wanted), strict=True):
            np.testing.assert_allclose(one, other, atol=1e-5)


def alone(encoder: Encoder, item: Item | None) -> Found:
    if item is None:
        return None
    try:
        prepared, uploads, title = joined(encoder, map(encoder.read_photo, item.images), item.title, clean=item.clean)
    except InvalidInput as error:
        return error
    return Embedded(uploads, title, Prepared((), prepared.title, prepared.phash), embed(encoder, [prepared])[0])


@pytest.mark.parametrize("way", ["threads", "processes"])
def test_what_comes_before_a_failure_of_the_towers_is_not_lost(encoders: dict[str, MultimodalEncoder], way: str) -> None:
    titles = [POISONED if n == 2 * CHUNK + 1 else f"title {n}" for n in range(6 * CHUNK)]
    chunks = embed_ahead(encoders[way], titles, lambda title: Item([], title), CHUNK)
    assert [len(next(chunks)), len(next(chunks))] == [CHUNK, CHUNK]
    with pytest.raises(EncodingFailed, match="poisoned"):
        next(chunks)


@pytest.mark.parametrize("way", ["threads", "processes"])
def test_what_comes_before_a_failure_of_the_rows_is_not_lost(encoders: dict[str, MultimodalEncoder], way: str) -> None:
    def rows() -> Iterator[str]:
        yield from (f"title {n}" for n in range(CHUNK + 5))
        raise InvalidInput("the table ends here")

    chunks = embed_ahead(encoders[way], rows(), lambda title: Item([], title), CHUNK)
    assert [len(next(chunks)), len(next(chunks))] == [CHUNK, 5]
    with pytest.raises(InvalidInput, match="ends here"):
        next(chunks)


def test_no_rows_at_all() -> None:
    assert list(embed_ahead(FakeEncoder(), [], lambda _: None, 8)) == []
