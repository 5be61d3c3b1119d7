from __future__ import annotations

from io import BytesIO

import imagehash
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from app.core import phash
from app.errors import InvalidInput

HASHES = st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=8).map(lambda values: np.array(values, np.uint64))


def picture(seed: int) -> Image.Image:
    cells = np.random.default_rng(seed).integers(0, 255, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(cells).resize((90, 70), Image.Resampling.BICUBIC)


def small(image: Image.Image) -> Image.Image:
    stream = BytesIO()
    image.resize((60, 48)).save(stream, "JPEG", quality=40)
    return Image.open(stream)


def test_distances_are_those_of_imagehash() -> None:
    images = [picture(0), small(picture(0)), picture(1), picture(2)]
    theirs = [imagehash.phash(image) for image in images]
    ours = np.array([phash.parse(str(one)) for one in theirs], np.uint64)
    expected = [[one - other for other in theirs] for one in theirs]
    assert phash.distances(ours[:, None], ours[None, :]).tolist() == expected
    assert 0 <= expected[0][1] < 10 < expected[0][2]


@given(HASHES)
def test_signs_turn_distances_into_inner_products(hashes: phash.Hashes) -> None:
    vectors = phash.signs(hashes)
    assert vectors.shape == (len(hashes), phash.BITS)
    assert vectors.dtype == np.float32
    assert (vectors @ vectors.T == phash.BITS - 2 * phash.distances(hashes[:, None], hashes)).all()


def test_the_kernel_falls_evenly_and_ends() -> None:
    assert phash.kernel(np.array([0, 5, 10, 20, 64])).tolist() == [1, 0.75, 0.5, 0, 0]
    assert phash.evidence(np.array([0.5, -1.0]), np.array([0, 40])).tolist() == [1.1, -1.0]
    assert (phash.kernel(np.arange(65)).round(6) >= phash.THRESHOLD).sum() == 9


@pytest.mark.parametrize("text", ["", "12", "g" * 16, "0" * 17, "0x00000000000000"])
def test_other_text_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="16 hexadecimal digits"):
        phash.parse(text)


def test_both_cases_are_read() -> None:
    assert phash.parse("00000000000000fF") == 255
