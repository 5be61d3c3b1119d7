"""The products of the ingest benchmark: what is said to differ differs, once it is decoded, too."""

from __future__ import annotations

from collections import Counter
from io import BytesIO

import pytest
from PIL import Image

from tests.benchmarks.ingest import drawn, spread


@pytest.mark.parametrize("copies", [1, 2])
def test_every_photo_and_title_stands_as_often_as_it_is_said_to(copies: int) -> None:
    count = 60
    products = [one for turn in (0, 1) for one in drawn(count, turn, copies)]
    pixels = [(image.size, image.tobytes()) for image in (Image.open(BytesIO(one.photo)) for one in products)]
    assert len({one.id for one in products}) == 2 * count
    assert set(Counter(pixels).values()) == {copies}
    assert set(Counter(one.title for one in products).values()) == {copies}


def test_a_spread_is_median_lowest_and_highest() -> None:
    assert spread([3.0, 1.0, 2.5]) == "2.50 (1.00 to 3.00)"
