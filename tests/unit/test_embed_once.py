"""Equal photos and equal titles of one batch go through the towers once, and everybody gets the vectors that are theirs."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.product import Floats, Pixels, Prepared
from app.errors import EncodingFailed
from app.matcher import embed, once
from tests.fakes import POISON, FakeEncoder, colour_vector, letter_vector, photo

COLOURS = ((255, 0, 0), (0, 255, 0), (10, 20, 30))


class CountingEncoder(FakeEncoder):
    """Keeps what the towers were given."""

    def __init__(self) -> None:
        super().__init__()
        self.photos: list[Pixels] = []
        self.titles: list[str] = []

    def embed_photos(self, pixels: Sequence[Pixels]) -> Floats:
        self.photos += pixels
        return super().embed_photos(pixels)

    def embed_titles(self, titles: Sequence[str]) -> Floats:
        self.titles += titles
        return super().embed_titles(titles)


def pixels(number: int) -> Pixels:
    """Decoded anew each time, as uploads are: equal, never the same object."""
    return FakeEncoder().read_photo(photo(COLOURS[number]))[1]


ITEMS = st.lists(
    st.builds(
        lambda photos, title: (tuple(photos), title),
        st.lists(st.integers(0, len(COLOURS) - 1), max_size=3),
        st.none() | st.sampled_from(["aaa", "aab", "zz", "", "1"]),
    ),
    max_size=8,
)


@given(ITEMS)
def test_everyone_gets_its_own_vectors_and_the_towers_see_each_value_once(
    drawn: list[tuple[tuple[int, ...], str | None]],
) -> None:
    encoder = CountingEncoder()
    found = embed(encoder, [Prepared(tuple(pixels(n) for n in photos), title) for photos, title in drawn])
    for (photos, title), embedding in zip(drawn, found, strict=True):
        wanted = [colour_vector(pixels(n)) for n in photos]
        assert embedding.images.shape == (len(photos), encoder.image_dim)
        assert embedding.images.dtype == np.float32
        assert all((row == vector).all() for row, vector in zip(embedding.images, wanted, strict=True))
        if title is None:
            assert embedding.title is None
        else:
            assert embedding.title is not None
            assert (embedding.title == letter_vector(title)).all()
    assert len(encoder.photos) == len({n for photos, _ in drawn for n in photos})
    assert encoder.titles == list(dict.fromkeys(title for _, title in drawn if title is not None))


@given(st.lists(st.integers(0, 6), max_size=30))
def test_once_keeps_the_first_of_each_and_leads_back_to_every_value(values: list[int]) -> None:
    keyed = list(enumerate(values))
    firsts, standing = once(keyed, lambda pair: pair[1])
    assert [firsts[place][1] for place in standing] == values
    assert [position for position, _ in firsts] == sorted(values.index(value) for value in set(values))


def test_one_pixel_makes_another_photo() -> None:
    encoder = CountingEncoder()
    one, other = pixels(0).copy(), pixels(0).copy()
    other[5, 7, 1] ^= 1
    embed(encoder, [Prepared((one, other)), Prepared((one.copy(),))])
    assert [(kept == one).all() for kept in encoder.photos] == [True, False]


def test_a_photo_that_is_no_block_of_memory_equals_its_copy() -> None:
    encoder = CountingEncoder()
    turned = pixels(2)[::-1, ::-1]
    assert not turned.flags.c_contiguous
    embed(encoder, [Prepared((turned,)), Prepared((turned.copy(),))])
    assert len(encoder.photos) == 1


def test_equal_bytes_of_another_shape_are_another_photo() -> None:
    encoder = CountingEncoder()
    tall = np.zeros((4, 2, 3), np.uint8)
    embed(encoder, [Prepared((tall,)), Prepared((tall.reshape(2, 4, 3),))])
    assert len(encoder.photos) == 2


def test_a_failure_of_the_towers_is_raised() -> None:
    with pytest.raises(EncodingFailed):
        embed(FakeEncoder(), [Prepared((), POISON), Prepared((), POISON)])


def test_titles_beside_photos_give_the_same_and_fail_alike() -> None:
    items = [Prepared((pixels(0),), "aa"), Prepared((pixels(1), pixels(2))), Prepared((), "b")]
    with ThreadPoolExecutor(1) as beside:
        for one, other in zip(embed(FakeEncoder(), items, beside), embed(FakeEncoder(), items), strict=True):
            np.testing.assert_array_equal(one.images, other.images)
            assert (one.title is None) == (other.title is None)
            if one.title is not None and other.title is not None:
                np.testing.assert_array_equal(one.title, other.title)
        with pytest.raises(EncodingFailed):
            embed(FakeEncoder(), [Prepared((pixels(0),), POISON)], beside)
        assert len(embed(FakeEncoder(), items, beside)) == 3
