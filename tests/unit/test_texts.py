"""How alike two titles are written: values by hand, brute force, and what holds for any titles."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.texts import TEXT_FEATURES, compare_texts, rare_overlap, words_of
from app.encoders.preprocess import InputLimits, clean_title
from app.errors import AppError

SHARES = [name for name in TEXT_FEATURES if name != "shorter"]

some_words = st.lists(st.sampled_from(["red", "shoe", "shoes", "500", "ml", "!!!", "é", "鞋"]), min_size=1, max_size=6)
some_text = st.text(min_size=1, max_size=20).filter(lambda text: bool(text.split()))
titles = some_words.map(" ".join) | some_text


def pair(one: str, other: str) -> dict[str, float]:
    return {name: float(values[0]) for name, values in compare_texts(one, [other]).items()}


def test_values_by_hand() -> None:
    found = pair("red shoe", "red shirt")
    assert found["tokens"] == pytest.approx(1 / 3)
    assert found["contained"] == pytest.approx(1 / 2)
    assert found["edit"] == pytest.approx(1 - 3 / 9)  # o -> i, e -> r, and one more t
    assert found["sort"] == pytest.approx(2 * 6 / 17)  # "red sh" of 8 and of 9 characters
    assert found["set"] == pytest.approx(2 * 6 / 17)
    assert found["partial"] == pytest.approx(2 * 6 / (8 + 6))  # "red sh" is the best part of the longer one
    assert found["trigrams"] == pytest.approx(5 / (8 + 9 - 5))
    assert found["shorter"] == 8
    assert found["length_ratio"] == pytest.approx(8 / 9)


def test_order_of_words_matters_to_some() -> None:
    found = pair("red shoe", "shoe red")
    assert [found[name] for name in ("set", "sort", "tokens", "contained")] == [1, 1, 1, 1]
    assert max(found["edit"], found["trigrams"]) < 1
    assert found["length_ratio"] == 1


def test_a_part_of_a_title_is_found_in_it() -> None:
    found = pair("red shoe", "new red shoe sale")
    assert [found[name] for name in ("set", "partial", "contained")] == [1, 1, 1]
    assert found["tokens"] == pytest.approx(2 / 4)
    assert found["sort"] == pytest.approx(2 * 8 / (8 + 17))  # "new red sale shoe" has "red shoe" in order


def test_titles_with_nothing_in_common() -> None:
    found = pair("abc", "xyz")
    assert [found[name] for name in TEXT_FEATURES] == [0, 0, 0, 0, 0, 0, 0, 3, 1]


def test_signs_alone_are_words() -> None:
    assert words_of("!!!") == {"!!!"}
    assert pair("!!!", "!!!") == dict.fromkeys(SHARES, 1) | {"shorter": 3}
    assert [pair("!!!", "???")[name] for name in ("tokens", "contained", "trigrams")] == [0, 0, 0]


def test_case_is_ignored() -> None:
    assert pair("RED Shoe", "red sHOE") == dict.fromkeys(SHARES, 1) | {"shorter": 8}
    assert words_of("RED Shoe") == {"red", "shoe"}


@given(titles, titles)
def test_no_side_comes_first(one: str, other: str) -> None:
    there, back = pair(one, other), pair(other, one)
    assert there == pytest.approx(back)


@given(titles, st.lists(titles, max_size=4))
def test_every_other_is_compared_by_itself(title: str, others: list[str]) -> None:
    found = compare_texts(title, others)
    assert tuple(found) == TEXT_FEATURES
    for name in TEXT_FEATURES:
        assert found[name].shape == (len(others),)
        assert found[name].tolist() == [pair(title, other)[name] for other in others]
        assert (found[name] >= 0).all()
        assert name == "shorter" or (found[name] <= 1).all()


@given(titles)
def test_a_title_is_like_itself(title: str) -> None:
    found = pair(title, title)
    assert [found[name] for name in SHARES] == pytest.approx([1] * len(SHARES))


@given(st.text(max_size=30))
def test_every_clean_title_has_words(text: str) -> None:
    try:
        title = clean_title(text, InputLimits())
    except AppError:
        return
    assert words_of(title)
    assert pair(title, "red shoe")["contained"] <= 1  # no division by nothing


def brute_force(title: str, other: str, context: list[str]) -> float:
    def weight(word: str) -> float:
        having = sum(word in one.lower().split() for one in context)
        return math.log((len(context) + 1) / (having + 0.5))

    mine, theirs = set(title.lower().split()), set(other.lower().split())
    shared, either = (sum(weight(word) for word in words) for words in (mine & theirs, mine | theirs))
    return shared / either


@given(titles, st.lists(titles, min_size=1, max_size=4), st.lists(titles, max_size=6))
def test_rare_overlap_equals_brute_force(title: str, others: list[str], context: list[str]) -> None:
    found = rare_overlap(title, others, context)
    assert found == pytest.approx([brute_force(title, other, context) for other in others])
    assert ((found >= 0) & (found <= 1 + 1e-12)).all()


@given(titles, titles, st.lists(titles, max_size=6))
def test_rare_overlap_has_no_first_side(one: str, other: str, context: list[str]) -> None:
    assert rare_overlap(one, [other], context) == pytest.approx(rare_overlap(other, [one], context))


def test_what_all_neighbours_say_counts_least() -> None:
    context = ["madu hutan", "madu kelapa", "madu kelapa", "madu randu"]
    common, rare = rare_overlap("madu hutan", ["madu randu", "hutan randu"], context)
    assert common < 0.1 < rare


def test_unknown_words_are_the_rarest() -> None:
    context = ["red shoe", "red shirt"]
    apart, known = rare_overlap("red shoe", ["red boot", "red shirt"], context)
    assert apart < known  # the same shared word, and a rarer rest
    assert rare_overlap("boot", ["boot", "cap"], context).tolist() == [1, 0]
    assert rare_overlap("boot", [], context).shape == (0,)
    assert np.isfinite(rare_overlap("boot", ["boot"], [])).all()
