"""`exact` of an answer by probability: true only if no product of the catalog that the model accepts is missing."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from app.judge import Rule
from app.matcher import Matcher, MatchOptions
from tests.fakes import photo
from tests.shelf import flat

Open = Callable[..., Matcher]
BLUE = photo((0, 0, 255))
ANYTHING = MatchOptions(limit=1000, rule=Rule(min_probability=0.5))


def fill(matcher: Matcher, products: int, photos: int) -> None:
    drafts = [
        matcher.read_product(f"p{n}", "a" * (n + 1) + "b" * (n % 7) + "c" * 9, [photo((200, n % 200, 5))] * photos, {})
        for n in range(products)
    ]
    matcher.add("default", drafts)


@pytest.mark.parametrize(("products", "photos"), [(40, 3), (49, 7), (60, 3), (52, 20), (130, 1)])
@pytest.mark.parametrize("probability", [0.7, 0.2])
def test_products_with_several_photos(open_matcher: Open, products: int, photos: int, probability: float) -> None:
    matcher = open_matcher(pairs=flat(probability))
    fill(matcher, products, photos)
    (answer,) = matcher.match([matcher.read_query(BLUE, "defg")], ANYTHING)
    assert all(match.score < answer.threshold for match in answer.matches)  # the threshold finds none of them
    right = products if probability >= 0.5 else 0
    assert answer.total <= right
    assert answer.exact == (answer.total == right)
    assert answer.exact or answer.total >= 50


def test_the_matches_of_a_product_with_many_photos(open_matcher: Open) -> None:
    matcher = open_matcher(pairs=flat(0.7))
    fill(matcher, 45, 20)
    answer = matcher.matches_of("p7", ANYTHING)
    assert (answer.total, answer.exact) == (44, True)
