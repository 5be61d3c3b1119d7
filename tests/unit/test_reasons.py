"""Reasons for people: a case for every code, and the order they come in."""

from __future__ import annotations

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core import reasons
from app.core.pairs import FEATURES
from app.core.reasons import AGAINST, reasons_for

BOUNDS = {"image": 0.6, "title": 0.5, "fused": 0.55}
LATER = {"photos_align", "recoloured", "weaker_evidence"}  # comes from comparing answers: see the tests of app.judge
PLAIN = ("madu hutan", "kopi bubuk")  # titles that say nothing in numbers, and are not the same

# evidence, titles, the code
CASES: list[tuple[dict[str, float], tuple[str | None, str | None], str]] = [
    ({"distance": 0.0}, PLAIN, "same_photo"),
    ({"distance": 4.0, "image": 0.9}, PLAIN, "same_photo"),
    ({"distance": 5.0, "image": 0.1}, PLAIN, "edited_photo"),
    ({"distance": 10.0}, PLAIN, "edited_photo"),
    ({"distance": 11.0, "image": 0.6}, PLAIN, "photos_alike"),
    ({"image": 0.6}, PLAIN, "photos_alike"),
    ({"image": 0.44}, PLAIN, "photos_differ"),
    ({}, PLAIN, "no_photo"),
    ({}, ("madu Hutan", "Hutan  MADU"), "same_title"),
    ({"title": 0.1}, ("madu Hutan", "Hutan  MADU"), "same_title"),
    ({"title": 0.5}, PLAIN, "titles_alike"),
    ({"title": 0.34}, PLAIN, "titles_differ"),
    ({}, ("madu", "Madu Hutan"), "title_says_less"),
    ({}, ("Madu hutan asli dari Sumbawa 500gr", "asli MADU hutan"), "title_says_less"),
    ({}, (None, "madu"), "no_title"),
    ({}, ("madu", None), "no_title"),
    ({}, ("madu 500gr", "kopi 0,5 kg"), "quantities_agree"),
    ({}, ("madu 500gr", "madu 1kg"), "quantities_conflict"),
    ({}, ("kipas XH-4410", "blower xh4410"), "codes_agree"),
    ({}, ("kipas XH-4410", "kipas XH-9920"), "codes_conflict"),
    ({"margin": -0.1, "rank": 2, "neighbours": 1}, PLAIN, "better_candidate"),
    ({"margin": 0.1, "rank": 1, "neighbours": 1}, PLAIN, "only_candidate"),
    ({"margin": 0.0, "rank": 1, "neighbours": 6}, PLAIN, "crowded"),
]
# what is just not enough for a reason
SILENT: list[tuple[dict[str, float], tuple[str | None, str | None], str]] = [
    ({"distance": 11.0}, PLAIN, "no_photo"),  # both have one, and no tower saw them
    ({"image": 0.59}, PLAIN, "photos_alike"),
    ({"image": 0.46}, PLAIN, "photos_differ"),
    ({"title": 0.49}, PLAIN, "titles_alike"),
    ({"title": 0.36}, PLAIN, "titles_differ"),
    ({}, ("madu", "kopi hutan"), "title_says_less"),
    ({}, ("madu hutan", "madu hutan asli"), "title_says_less"),
    ({}, ("madu hutan asli sumbawa", "madu hutan asli dari sumbawa barat 500gr murah"), "title_says_less"),
    ({}, (None, "madu hutan"), "title_says_less"),
    ({}, PLAIN, "no_title"),  # both have one, and no tower read them
    ({"margin": -0.09, "rank": 2, "neighbours": 1}, PLAIN, "better_candidate"),
    ({"margin": 0.09, "rank": 1, "neighbours": 1}, PLAIN, "only_candidate"),
    ({"margin": 0.5, "rank": 2, "neighbours": 1}, PLAIN, "only_candidate"),
    ({"margin": 0.0, "rank": 1, "neighbours": 5}, PLAIN, "crowded"),
    ({"rank": 1, "neighbours": 9}, PLAIN, "crowded"),  # without a margin there is no neighbourhood
    ({}, ("madu 500gr", "kopi"), "quantities_conflict"),
]


def told(evidence: dict[str, float], left: str | None, right: str | None) -> list[str]:
    known = dict.fromkeys(FEATURES, math.nan) | evidence
    return [reason.code for reason in reasons_for(left, right, 1, known, BOUNDS)]


@pytest.mark.parametrize(("evidence", "titles", "code"), CASES)
def test_there_is_a_case_for_it(evidence: dict[str, float], titles: tuple[str | None, str | None], code: str) -> None:
    assert told(evidence, *titles).count(code) == 1


@pytest.mark.parametrize(("evidence", "titles", "code"), SILENT)
def test_too_little_is_no_reason(evidence: dict[str, float], titles: tuple[str | None, str | None], code: str) -> None:
    assert code not in told(evidence, *titles)


def documented() -> set[str]:
    """The codes in the table of the module's docstring."""
    lines = [line for line in (reasons.__doc__ or "").splitlines() if line.startswith("    ")]
    return {code for line in lines for code in re.split(r",\s*", line[4:].split("  ")[0].strip())}


def test_the_list_of_codes_is_whole() -> None:
    assert documented() - LATER == {code for _, _, code in CASES}
    assert documented() >= AGAINST


numbers = st.one_of(st.just(math.nan), st.floats(-1, 1))
evidences = st.fixed_dictionaries(
    {
        "image": numbers, "title": numbers, "margin": numbers, "distance": st.sampled_from([math.nan, 0, 3, 8, 12]),
        "rank": st.integers(1, 4), "neighbours": st.integers(0, 9),
    }
)  # fmt: skip
some_titles = st.sampled_from(
    [None, "madu 500gr isi 2", "madu 1kg isi 2", "kipas XH-4410", "kipas XH-9920 40W", "kipas", "madu"]
)


@given(evidences, some_titles, some_titles)
def test_no_other_code_is_told(evidence: dict[str, float], left: str | None, right: str | None) -> None:
    found = told(evidence, left, right)
    assert set(found) <= documented() - LATER
    for kind in (
        {"photos_alike", "photos_differ", "same_photo", "edited_photo", "no_photo"},
        {"same_title", "titles_alike", "titles_differ", "no_title"},
        {"same_title", "title_says_less", "no_title"},
        {"better_candidate", "only_candidate", "crowded"},
    ):
        assert sum(code in kind for code in found) <= 1


@given(evidences, some_titles, some_titles)
def test_conflicts_come_first_and_the_neighbourhood_last(
    evidence: dict[str, float], left: str | None, right: str | None
) -> None:
    def place(code: str) -> int:
        if code.endswith("_conflict"):
            return 0
        if code.endswith("_agree"):
            return 1
        return 2 + ["photo" in code, "title" in code, True].index(True)

    places = [place(code) for code in told(evidence, left, right)]
    assert places == sorted(places)


def test_firm_conflicts_come_before_others() -> None:
    known = dict.fromkeys(FEATURES, math.nan)
    found = reasons_for("susu 400 g isi 3 500ml", "susu 380 g isi 3 900 ml", 2, known, BOUNDS)
    assert [(one.code, one.text) for one in found[:3]] == [
        ("quantities_conflict", "title: 500 ml, catalog: 900 ml"),
        ("quantities_conflict", "title: 400 g, catalog: 380 g"),  # another label of the same product, perhaps
        ("quantities_agree", "both titles: 3 pcs"),
    ]


def test_reasons_are_sentences_with_numbers() -> None:
    known = dict.fromkeys(FEATURES, math.nan) | {"image": 0.712, "title": 0.2, "margin": 0.0, "rank": 1, "neighbours": 7}
    found = {one.code: one.text for one in reasons_for(*PLAIN, 2, known, BOUNDS)}
    assert found == {
        "photos_alike": "the photos are alike (0.71)",
        "titles_differ": "the titles differ (0.20)",
        "crowded": "6 products of the catalog are this close to what was asked",
    }


def test_without_bounds_nothing_short_of_equal_is_alike() -> None:
    known = dict.fromkeys(FEATURES, math.nan) | {"image": 0.99, "title": 0.99}
    assert [one.code for one in reasons_for(*PLAIN, 2, known, {})] == []
