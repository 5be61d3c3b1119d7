from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.answer import Answer
from app.core.product import (
    Embedding,
    Scalar,
    agrees,
    canonical,
    check_attributes,
    check_catalog,
    check_filter,
    check_id,
    is_unicode,
)
from app.errors import InvalidFilter, InvalidInput

NO_PHOTO = np.zeros((0, 2), np.float32)
ONE_PHOTO = np.ones((1, 2), np.float32)
TITLE = np.ones(2, np.float32)

scalars = st.one_of(st.booleans(), st.integers(-(2**53) + 1, 2**53 - 1), st.floats(-1e15, 1e15), st.text(max_size=20))


@pytest.mark.parametrize(
    "value", ["1", "train_129225211", "a b", "shop/1/red", "ร้องเท้า", "👟", "x" * 200, "a.b", "...", "a%2Fb"]
)
def test_an_ordinary_id_is_kept_as_it_is(value: str) -> None:
    assert check_id(value) == value


@pytest.mark.parametrize(
    "value",
    [
        "",
        "x" * 201,
        " a",
        "a ",
        "a\n",
        "a\tb",
        "a\0b",
        "a\u200bb",
        "\u00a0a",
        "\ud800",
        ".",
        "..",
        "/a",
        "a/",
        "a/image",
        "a/matches",
    ],
)
def test_an_id_that_could_not_be_stored_or_found_again_is_refused(value: str) -> None:
    with pytest.raises(InvalidInput, match="id must"):
        check_id(value)


@pytest.mark.parametrize("value", ["a/../b", "../a", "a/..", "a/./b", "./a", "a/."])
def test_an_id_that_a_client_would_shorten_in_a_url_is_refused(value: str) -> None:
    with pytest.raises(InvalidInput, match="id must"):
        check_id(value)


@pytest.mark.parametrize("value", ["default", "Shop-1", "a.b_c", "0", "x" * 64])
def test_an_ordinary_catalog_name_is_kept(value: str) -> None:
    assert check_catalog(value) == value


@pytest.mark.parametrize("value", ["", "x" * 65, ".hidden", "-a", "_a", "a b", "a/b", "..", "ä", "a\n"])
def test_a_catalog_name_that_is_no_plain_word_is_refused(value: str) -> None:
    with pytest.raises(InvalidInput, match="catalog must"):
        check_catalog(value)


def test_attributes_are_kept_with_their_types() -> None:
    values: dict[str, object] = {"brand": "Nike", "size": 42, "price": 1.5, "new": True, "empty": "", "größe": "ä" * 500}
    kept = check_attributes(values)
    assert kept == values
    assert [type(value) for value in kept.values()] == [type(value) for value in values.values()]


@pytest.mark.parametrize(
    "value",
    [
        None, [], ["a"], {}, b"x", "a\0b", "\ud800", "a\udfffb", "x" * 501,
        math.nan, math.inf, -math.inf, 2**53, -(2**53), 1e300, 10**400,
    ],
)  # fmt: skip
def test_an_attribute_that_no_json_or_database_can_carry_is_refused(value: object) -> None:
    with pytest.raises(InvalidInput, match="attribute 'x'"):
        check_attributes({"x": value})
    with pytest.raises(InvalidFilter, match="'x'"):
        check_filter({"x": [value]})


@pytest.mark.parametrize("name", ["", "x" * 201, "a\nb", "a\0", "\ud800"])
def test_an_attribute_name_that_cannot_be_printed_is_refused(name: str) -> None:
    with pytest.raises(InvalidInput, match="attribute names"):
        check_attributes({name: 1})
    with pytest.raises(InvalidFilter, match="attribute names"):
        check_filter({name: 1})


def test_too_many_attributes_are_refused() -> None:
    assert len(check_attributes({str(n): n for n in range(64)})) == 64
    with pytest.raises(InvalidInput, match="at most 64"):
        check_attributes({str(n): n for n in range(65)})
    with pytest.raises(InvalidFilter, match="at most 64"):
        check_filter({str(n): n for n in range(65)})


def test_a_filter_is_one_value_or_a_list_of_accepted_ones() -> None:
    assert check_filter({"brand": "Nike", "size": [41, 42]}) == {"brand": ("Nike",), "size": (41, 42)}
    assert check_filter({}) == {}


@pytest.mark.parametrize("accepted", [[], list(range(101))])
def test_a_filter_without_values_or_with_too_many_is_refused(accepted: list[int]) -> None:
    with pytest.raises(InvalidFilter, match="1 to 100"):
        check_filter({"size": accepted})


@pytest.mark.parametrize(("one", "other"), [(1, 1.0), (0, -0.0), (0.0, -0.0), (-5, -5.0), (2**53 - 1, float(2**53 - 1))])
def test_equal_numbers_agree_whatever_their_type(one: Scalar, other: Scalar) -> None:
    assert canonical(one) == canonical(other)
    assert agrees({"x": one}, {"x": (other,)})


@pytest.mark.parametrize(
    ("one", "other"),
    [(1, "1"), (1, True), (0, False), ("1", True), ("True", True), (1.0, "1.0"), ("a", "A"), (1, 1.5), ("n:1.0", 1)],
)
def test_values_of_different_kinds_do_not_agree(one: Scalar, other: Scalar) -> None:
    assert canonical(one) != canonical(other)
    assert not agrees({"x": one}, {"x": (other,)})


@given(scalars, scalars)
def test_canonical_text_is_equal_exactly_for_equal_values_of_one_kind(one: Scalar, other: Scalar) -> None:
    def kind(value: Scalar) -> str:
        return "text" if isinstance(value, str) else "truth" if isinstance(value, bool) else "number"

    assert (canonical(one) == canonical(other)) == (kind(one) == kind(other) and one == other)


def test_every_attribute_of_a_filter_must_have_one_of_its_values() -> None:
    attributes: dict[str, Scalar] = {"brand": "Nike", "size": 42}
    assert agrees(attributes, {})
    assert agrees(attributes, {"brand": ("Puma", "Nike")})
    assert agrees(attributes, {"brand": ("Nike",), "size": (42.0,)})
    assert not agrees(attributes, {"brand": ("Nike",), "size": (43,)})
    assert not agrees(attributes, {"colour": ("red",)})


@pytest.mark.parametrize(
    ("text", "expected"), [("", True), ("ä👟", True), ("\ud800", False), ("a\udfff", False), ("\ue000", True)]
)
def test_lone_surrogates_are_no_unicode(text: str, expected: bool) -> None:
    assert is_unicode(text) is expected


@pytest.mark.parametrize(
    ("embedding", "modality"),
    [(Embedding(ONE_PHOTO, TITLE), "fused"), (Embedding(ONE_PHOTO), "image"), (Embedding(NO_PHOTO, TITLE), "title")],
)
def test_the_modality_says_which_halves_there_are(embedding: Embedding, modality: str) -> None:
    assert embedding.modality == modality


def test_an_embedding_of_nothing_has_no_modality() -> None:
    with pytest.raises(ValueError, match="at least one"):
        _ = Embedding(NO_PHOTO).modality


def test_an_answer_with_more_products_than_it_shows_is_truncated() -> None:
    assert Answer((), 0.5, total=1, gallery=1).truncated
    assert not Answer((), 0.5, total=0, gallery=1).truncated
