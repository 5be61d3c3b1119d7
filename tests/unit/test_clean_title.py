from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.encoders.preprocess import InputLimits, clean_title
from app.errors import InvalidTitle

LIMITS = InputLimits()
ROOMY = InputLimits(title_chars=10**6)  # NFKC can make one character eighteen


def clean(text: str) -> str:
    return clean_title(text, LIMITS)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r"\xe2\x98\x85 Sepatu \xe2\x98\x85", "★ Sepatu ★"),
        (r"\xE2\x98\x85Sepatu", "★Sepatu"),
        (r"Kopi\xc2\xa0250gr", "Kopi 250gr"),
        (r"broken \xe2\x98 escape", "broken � escape"),
        (r"C:\xylophone \x4", r"C:\xylophone \x4"),
        (r"a\x00b", "a b"),
    ],
)
def test_literal_byte_escapes_are_decoded(text: str, expected: str) -> None:
    assert clean(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Tom &amp; Jerry", "Tom & Jerry"),
        ("&lt;new&gt; &quot;Nike&quot;", '<new> "Nike"'),
        ("a&nbsp;b", "a b"),
        ("&#9733; &#x2605;", "★ ★"),
        ("H&M R&D AT&T", "H&M R&D AT&T"),
        ("a &unknown; b", "a &unknown; b"),
    ],
)
def test_html_entities_are_decoded(text: str, expected: str) -> None:
    assert clean(text) == expected


@pytest.mark.parametrize("text", ["pens&notebooks", "big&regular", "chairs&sections", "gold&copper", "cuts&parallels"])
def test_an_ampersand_between_words_is_no_entity(text: str) -> None:
    assert clean(text) == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ＮＩＫＥ　４２", "NIKE 42"),
        ("①", "1"),
        ("ﬁt", "fit"),
        ("Cafe\u0301", "Café"),
        ("m²", "m2"),
        ("ｶﾞ", "ガ"),
        ("…", "..."),
    ],
)
def test_compatible_characters_become_one(text: str, expected: str) -> None:
    assert clean(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("  a \t b\r\n\v\f c  ", "a b c"),
        ("a\x01b\x7fc\x9fd", "a b c d"),
        ("\ufeffNike", "Nike"),
        ("a\u200bb", "a b"),
        ("a\u2003b\u00a0c\u3000d", "a b c d"),
        ("a\u2028b\u2029c", "a b c"),
        ("\u200fNike\u200e", "Nike"),
    ],
)
def test_control_characters_and_blanks_become_single_blanks(text: str, expected: str) -> None:
    assert clean(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"), [("shoe\u00adlace", "shoelace"), ("Ni\u2060ke", "Nike"), ("(\u200eNike\u200e)", "(Nike)")]
)
def test_invisible_characters_inside_a_word_do_not_cut_it(text: str, expected: str) -> None:
    assert clean(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "รองเท้าวิ่งผู้ชาย", "حذاء رياضي للرجال", "می\u200cخواهم", "क्\u200dष", "👨\u200d👩\u200d👧 shirt", "❤️ 👍🏽", "ß ẞ ı İ",
        "Кроссовки", "跑鞋 男", "신발", "500gr 1kg 10%", r"C:\temp", "100% \\ /",
    ],
)  # fmt: skip
def test_titles_in_any_script_survive(text: str) -> None:
    assert clean(text) == unicodedata.normalize("NFKC", text)


@pytest.mark.parametrize(
    "text", ["", " ", "\t\n", "\u3000", "\u200b", "\ufeff", "&nbsp;", r"\x20", r"\x00", "\u200d", "\u200c \u200d"]
)
def test_a_title_without_anything_to_read_is_refused(text: str) -> None:
    with pytest.raises(InvalidTitle, match="empty"):
        clean(text)


@pytest.mark.parametrize("text", ["a\0b", "\0", "a\ud800b", "\udfff"])
def test_a_title_that_no_database_can_store_is_refused(text: str) -> None:
    with pytest.raises(InvalidTitle, match="NUL"):
        clean(text)


@pytest.mark.parametrize("text", ["&#0;a", "&#xD800;a", r"\xed\xa0\x80 a", "&#x110000;a"])
def test_entities_and_escapes_cannot_smuggle_in_what_is_refused(text: str) -> None:
    found = clean(text)
    assert "\0" not in found
    found.encode("utf-8")


def test_the_length_limit_is_inclusive() -> None:
    assert clean("x" * 2000) == "x" * 2000
    with pytest.raises(InvalidTitle, match="2,001"):
        clean("x" * 2001)


@given(st.text(alphabet=st.characters(exclude_characters="\0\\&＆﹠＼﹨", exclude_categories=["Cs"])))
def test_cleaning_a_clean_title_changes_nothing(text: str) -> None:
    try:
        once = clean_title(text, ROOMY)
    except InvalidTitle:
        return
    assert clean_title(once, ROOMY) == once


@given(st.text())
def test_a_title_is_cleaned_or_refused(text: str) -> None:
    try:
        found = clean_title(text, LIMITS)
    except InvalidTitle:
        return
    assert found
    assert found == " ".join(found.split())
    assert not any(unicodedata.category(c) == "Cc" for c in found)
    found.encode("utf-8")
