from __future__ import annotations

import re
from collections import Counter
from dataclasses import fields

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from app.encoders.preprocess import InputLimits, clean_title
from app.errors import InvalidInput, InvalidTitle
from app.training.augment.title import TITLE_EDITS, TitleAugmentation, augment_title

LIMITS = InputLimits()
USUAL = TitleAugmentation()
ALL = [one.name for one in fields(TitleAugmentation)[1:]]
EVERYTHING = TitleAugmentation(**dict.fromkeys(ALL, 1.0))
TITLE = "Kapal Api Kopi Chocolate [Special] Mix - 500 g RTX3060 isi 10 Men's T-Shirt"
SEEDS = range(60)


def dice(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def edited(name: str, title: str = TITLE) -> list[str]:
    return [TITLE_EDITS[name](title, dice(seed)) for seed in SEEDS]


def words(title: str) -> Counter[str]:
    return Counter(title.split())


# -- single edits ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TITLE_EDITS)
def test_an_edit_changes_the_title(name: str) -> None:
    made = edited(name)
    assert sum(one != TITLE for one in made) >= 0.6 * len(made)


@pytest.mark.parametrize("name", TITLE_EDITS)
def test_an_edit_is_decided_by_the_generator(name: str) -> None:
    assert edited(name) == edited(name)
    assert name == "spacing" or len(set(edited(name))) > 2


def test_another_order_has_the_same_words_and_keeps_numbers_with_their_units() -> None:
    for made in edited("order"):
        assert words(made) == words(TITLE)
        assert made != TITLE
        assert "500 g" in made


def test_most_orders_are_near_the_first() -> None:
    title = " ".join(f"w{n}" for n in range(12))
    kept = [sum(a == b for a, b in zip(made.split(), title.split(), strict=True)) for made in edited("order", title)]
    assert np.mean(np.array(kept) >= 2) > 0.6
    assert min(kept) <= 2


def test_promo_words_are_added_and_nothing_is_lost() -> None:
    front = end = 0
    for made in edited("promo"):
        assert not words(TITLE) - words(made)
        assert len(made) > len(TITLE)
        front += not made.startswith("Kapal")
        end += not made.endswith("T-Shirt")
    assert front > 10
    assert end > 10


@pytest.mark.parametrize(("title", "script"), [("蓝月亮洗衣液薰衣草香", "[\u3400-\u9fff]"), ("น้ำยาซักผ้า", "[\u0e00-\u0e7f]")])
def test_promo_words_follow_the_script(title: str, script: str) -> None:
    added = [made.replace(title, "") for made in edited("promo", title)]
    assert 0.4 < np.mean([bool(re.search(script, one)) for one in added]) < 1
    assert not any(re.search(script, one) for one in edited("promo"))


def test_case_changes_nothing_but_case() -> None:
    made = edited("case")
    assert {one.lower() for one in made} == {TITLE.lower()}
    assert {TITLE.lower(), TITLE.upper()} < set(made)
    assert any("Men's" in one and "Rtx3060" in one for one in made)


def test_dropped_words_are_few_and_hardly_ever_have_digits() -> None:
    digits = 0
    for seed in range(400):
        made = TITLE_EDITS["drop"](TITLE, dice(seed))
        assert not words(made) - words(TITLE)
        assert words(TITLE).total() - words(made).total() <= 4
        digits += sum(bool(re.search(r"\d", word)) for word in words(TITLE) - words(made))
    assert 0 < digits < 25


@pytest.mark.parametrize("title", ["a b", "500g 1kg", "x 1"])
def test_never_are_all_words_dropped(title: str) -> None:
    for seed in range(300):
        assert TITLE_EDITS["drop"](title, dice(seed)).split()


@pytest.mark.parametrize(
    ("title", "expected"),
    [
        ("Kopi 500 g", "Kopi 500g"),
        ("Kopi 500g", "Kopi 500 g"),
        ("1,5 Liter Air", "1,5Liter Air"),
        ("SSD 512GB isi 2 pcs", "SSD 512 GB isi 2pcs"),
        ("洗衣液 3kg", "洗衣液 3 kg"),
        ("(12Inch)", "(12 Inch)"),
        ("Galaxy S21 5Gen 10x", "Galaxy S21 5Gen 10x"),
        ("RTX3060 v1.2m A500g", "RTX3060 v1.2m A500g"),
    ],
)
def test_numbers_and_units_are_joined_and_parted(title: str, expected: str) -> None:
    assert TITLE_EDITS["spacing"](title, dice()) == expected


def test_typos_are_small_and_only_in_long_words_without_digits() -> None:
    for made in edited("typo"):
        changed = [(a, b) for a, b in zip(TITLE.split(), made.split(), strict=True) if a != b]
        assert 1 <= len(changed) <= 2
        for before, after in changed:
            assert before in {"Kapal", "Chocolate"}
            assert after[0] == before[0]
            assert abs(len(after) - len(before)) <= 2
            assert not Counter(after.lower()).keys() - Counter(before.lower()).keys()


@pytest.mark.parametrize("name", ["typo", "shorten"])
@pytest.mark.parametrize("title", ["RTX3060TI 1234567", "a bc def ghij", "蓝月亮洗衣液薰衣草香", "น้ำยาซักผ้ากลิ่น"])
def test_model_numbers_short_words_and_uncased_scripts_are_spelt_as_they_were(name: str, title: str) -> None:
    assert set(edited(name, title)) == {title}


def test_shortened_words_are_cut_at_the_end() -> None:
    for made in edited("shorten"):
        (before, after), *others = [(a, b) for a, b in zip(TITLE.split(), made.split(), strict=True) if a != b]
        assert not others
        assert (before, before.startswith(after.rstrip("."))) == ("Chocolate", True)
        assert 3 <= len(after.rstrip(".")) <= 5


def test_punctuation_changes_no_letter() -> None:
    def letters(title: str) -> str:
        return re.sub(r"\W", "", title)

    made = edited("punctuation")
    assert {letters(one) for one in made} == {letters(TITLE)}
    assert any("[" not in one for one in made)
    assert any("Mens" in one for one in made)
    assert any(" - " not in one for one in made)
    assert any(len(one.split()) > len(TITLE.split()) for one in made)
    assert all("500 g" in one for one in made)


# -- the policy -----------------------------------------------------------------------------------------------


@given(st.text(max_size=60), st.integers(0, 2**32))
def test_strength_0_leaves_the_title_as_it_is(title: str, seed: int) -> None:
    assert augment_title(title, TitleAugmentation(strength=0, promo=1), dice(seed)) == title


def test_a_title_is_decided_by_the_generator_alone() -> None:
    first = [augment_title(TITLE, USUAL, dice(seed)) for seed in SEEDS]
    np.random.seed(1)
    assert first == [augment_title(TITLE, USUAL, dice(seed)) for seed in SEEDS]
    assert len(set(first)) > 45


def test_words_with_digits_survive_in_most_titles() -> None:
    kept = [
        {"500", "3060", "10"} == set(re.findall(r"\d+", augment_title(TITLE, EVERYTHING, dice(seed)))) - {"100"}
        for seed in range(300)
    ]
    assert 0.85 < np.mean(kept) < 1


def test_a_title_stays_recognisable() -> None:
    kept = []
    for seed in range(200):
        made = set(re.findall(r"\w+", augment_title(TITLE, USUAL, dice(seed)).lower()))
        kept.append(len(made & set(re.findall(r"\w+", TITLE.lower()))) / len(set(re.findall(r"\w+", TITLE.lower()))))
    assert np.mean(kept) > 0.8


@pytest.mark.parametrize("how", [USUAL, EVERYTHING], ids=["usual", "everything"])
@given(title=st.text(min_size=1, max_size=80), seed=st.integers(0, 2**32))
def test_whatever_the_tower_can_read_stays_readable(how: TitleAugmentation, title: str, seed: int) -> None:
    try:
        clean_title(title, LIMITS)
    except InvalidTitle:
        assume(False)
    assert clean_title(augment_title(title, how, dice(seed)), LIMITS)


@pytest.mark.parametrize("name", TITLE_EDITS)
@given(
    parts=st.lists(
        st.sampled_from(
            ["&nbsp;", "\u200b", "\u200d", r"\x00", r"\xe2\x98\x85", "500", "g", "-", "Kopi", "&#32;", "[", "ß", "'"]
        ),
        min_size=1,
        max_size=6,
    ),
    seed=st.integers(0, 2**32),
)
def test_no_edit_leaves_only_what_cannot_be_seen(name: str, parts: list[str], seed: int) -> None:
    title = " ".join(parts)
    try:
        clean_title(title, LIMITS)
    except InvalidTitle:
        assume(False)
    assert clean_title(TITLE_EDITS[name](title, dice(seed)), LIMITS)


@pytest.mark.parametrize(
    "title",
    ["Kopi", "x", "7", "ß" * 2000, "a " * 999 + "b", "word5 " * 333, "蓝" * 2000, "♥", "-", "[]", "' '"],
    ids=range(11),
)
def test_short_long_and_odd_titles_are_edited(title: str) -> None:
    for seed in range(20):
        made = augment_title(title, EVERYTHING, dice(seed))
        assert len(made) <= 2000
        assert clean_title(made, LIMITS)


@pytest.mark.parametrize("name", TITLE_EDITS)
def test_an_edit_alone_is_the_named_edit(name: str) -> None:
    how = TitleAugmentation(**{**dict.fromkeys(ALL, 0.0), name: 1.0})
    for seed in range(10):
        random = dice(seed)
        random.random(len(TITLE_EDITS))  # the policy's own dice
        assert augment_title(TITLE, how, dice(seed)) == TITLE_EDITS[name](TITLE, random)


def test_there_is_one_probability_for_every_edit() -> None:
    assert sorted(ALL) == sorted(TITLE_EDITS)


def test_strength_scales_how_often() -> None:
    def changed(strength: float) -> int:
        how = TitleAugmentation(strength=strength, **{**dict.fromkeys(ALL, 0.0), "spacing": 0.4})
        return sum(augment_title(TITLE, how, dice(seed)) != TITLE for seed in range(200))

    assert 20 < changed(0.5) < 60
    assert 60 < changed(1) < 100
    assert changed(9) == 200


@pytest.mark.parametrize("wrong", [{"strength": -1.0}, {"strength": float("nan")}, {"promo": 1.5}, {"case": -0.1}])
def test_probabilities_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(InvalidInput, match=next(iter(wrong))):
        TitleAugmentation(**wrong)
