from __future__ import annotations

import csv
import gzip
import os
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import pyarrow.parquet
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from app.core.quantities import KINDS, Comparison, Facts, Verdict, compare_facts, read_facts
from app.core.quantities.codes import is_variant, similarity
from app.core.quantities.facts import Value
from app.core.quantities.read import MAX_FACTS
from app.core.quantities.tokens import number
from app.encoders.preprocess import InputLimits, clean_title
from app.labelled.pairs import without_tags

DATA = Path(__file__).parents[1] / "data"
FOLDER = os.environ.get("BENCHMARK_DATA", "")

Expected = dict[str, list[str]]


def expected(text: str) -> Expected:
    """Reads a cell of the tables: "volume=100,200; count=2", in the units of `KINDS`."""
    parts = (part.split("=", 1) for part in text.split("; ") if part)
    return {kind: sorted(values.split(",")) for kind, values in parts}


def described(facts: Facts) -> Expected:
    """Writes facts as the tables do, without bare numbers and codes that are too short to name a model."""
    found: Expected = {"model": list(facts.codes)} if facts.codes else {}
    for value in facts.values:
        if value.kind not in ("number", "variant"):
            found.setdefault(value.kind, []).append(cell(value))
    return {kind: sorted(values) for kind, values in found.items()}


def cell(value: Value) -> str:
    if value.kind == "dimensions":
        return "x".join(f"{side:g}" for side in value.sides) + value.label
    if value.kind == "size":
        return value.text.removeprefix("size ").replace("all sizes", "all")
    return f"{value.low:g}" if value.low == value.high else f"{value.low:g}-{value.high:g}"


def table(name: str) -> list[dict[str, str]]:
    with (DATA / name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def compared(left: str, right: str) -> dict[str, Comparison]:
    return compare_facts(read_facts(left), read_facts(right))


def vetoes(comparisons: Mapping[str, Comparison]) -> tuple[Comparison, ...]:
    """The conflicts that keep two listings apart, in the order of KINDS."""
    return tuple(comparisons[kind] for kind in KINDS if comparisons[kind].firm)


@pytest.mark.parametrize("row", [pytest.param(row, id=row["title"]) for row in table("quantity_titles.csv")])
def test_titles_in_many_languages(row: dict[str, str]) -> None:
    assert described(read_facts(clean_title(row["title"], InputLimits()))) == expected(row["facts"])


@cache
def real_titles(source: str) -> dict[str, str]:
    """The titles of a file of the benchmark data by id; of a table of pairs by row and side."""
    file = Path(FOLDER) / source
    if file.suffix == ".parquet":
        columns = pyarrow.parquet.read_table(file, columns=["id", "title"]).to_pydict()
        return dict(zip(map(str, columns["id"]), columns["title"], strict=True))
    with gzip.open(file, "rt", encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    if "posting_id" in rows[0]:
        return {row["posting_id"]: row["title"] for row in rows}
    return {f"{n}:{side}": row[f"{side}_title"] for n, row in enumerate(rows, 1) for side in ("left", "right")}


@pytest.mark.skipif(not FOLDER, reason="BENCHMARK_DATA does not name the folder of real titles, which may not be shipped")
def test_real_titles_are_read_but_for_the_known_ones() -> None:
    rows = table("quantity_real_titles.csv")
    wrong = []
    for row in rows:
        title = without_tags(real_titles(row["source"])[row["id"]]) or ""
        if described(read_facts(clean_title(title, InputLimits()))) != expected(row["facts"]):
            wrong.append((row["source"], row["id"]))
    assert wrong == [(row["source"], row["id"]) for row in rows if row["wrong_today"]]


def test_the_table_of_real_titles_says_nothing_but_facts() -> None:
    rows = table("quantity_real_titles.csv")
    assert len(rows) >= 300
    assert len({(row["source"], row["id"]) for row in rows}) == len(rows)
    assert {kind for row in rows for kind in expected(row["facts"])} <= set(KINDS)
    assert sum(bool(row["wrong_today"]) for row in rows) < len(rows) / 20


@pytest.mark.parametrize(
    ("left", "right", "kind", "verdict"),
    [
        ("Madu 500 g", "Madu 0,5 kg", "mass", Verdict.AGREE),
        ("Madu 500gr", "Madu 1kg", "mass", Verdict.CONFLICT),
        ("Madu 500gr", "Madu", "mass", Verdict.ABSENT),
        ("Peanut butter 16 oz", "Peanut butter 454 g", "mass", Verdict.AGREE),
        ("Lotion 16 oz", "Lotion 473 ml", "volume", Verdict.AGREE),
        ("Lotion 16 oz", "Lotion 500 ml", "volume", Verdict.CONFLICT),
        ("Flour 1 lb", "Flour 454 g", "mass", Verdict.AGREE),
        ("Sampo 2x100ml", "Sampo 200 ml", "volume", Verdict.AGREE),
        ("Sampo 2x100ml", "Sampo 100 ml", "volume", Verdict.AGREE),
        ("Sampo 2 x 100ml", "Sampo 3 x 100ml", "count", Verdict.CONFLICT),
        ("Sampo 100ml/250ml/500ml", "Sampo 250 ml", "volume", Verdict.AGREE),
        ("Sampo 100/250/500 ml", "Sampo 300 ml", "volume", Verdict.CONFLICT),
        ("Mainan usia 2-12 thn", "Mainan usia 5 tahun", "age", Verdict.AGREE),
        ("Mainan usia 2-4 thn", "Mainan usia 5 tahun", "age", Verdict.CONFLICT),
        ("Masker isi 50", "Masker 50 pcs", "count", Verdict.AGREE),
        ("Masker isi 3", "Masker 1 lusin", "count", Verdict.CONFLICT),
        ("Kaos kaki 1 pasang", "Kaos kaki 2 pcs", "count", Verdict.AGREE),
        ("Kain 20x30 cm", "Kain 30 x 20cm", "dimensions", Verdict.AGREE),
        ("Kain 20x30", "Kain 200 x 300 mm", "dimensions", Verdict.AGREE),
        ("Kain 20x30", "Kain 8 x 12 inch", "dimensions", Verdict.AGREE),
        ("Kain 20x30 cm", "Kain 20x40 cm", "dimensions", Verdict.CONFLICT),
        ("Sprei 120x200x20 cm", "Sprei 120 x 200 cm", "dimensions", Verdict.AGREE),
        ("Laptop 13 inch", "Laptop 13.3 inch", "length", Verdict.AGREE),
        ("Laptop 13 inch", "Laptop 15 inch", "length", Verdict.CONFLICT),
        ("Lens 18-55mm", "Lens 16-50mm", "length", Verdict.CONFLICT),
        ("Phone 4/64GB", "Phone 4/128GB", "storage", Verdict.CONFLICT),
        ("Phone 8GB/128GB", "Phone 128 GB", "storage", Verdict.AGREE),
        ("Disk 1TB", "Disk 1000 GB", "storage", Verdict.AGREE),
        ("Camera 10 MP", "Camera 10.1 megapixel", "pixels", Verdict.AGREE),
        ("Shirt M", "Shirt size M", "size", Verdict.ABSENT),
        ("Shirt XL", "Shirt size M", "size", Verdict.CONFLICT),
        ("Shirt XXL", "Shirt 2XL", "size", Verdict.AGREE),
        ("Shirt all size", "Shirt 2XL", "size", Verdict.AGREE),
        ("Shirt S-XL", "Shirt size L", "size", Verdict.AGREE),
        ("Shoes EU 38", "Shoes US 7", "size", Verdict.ABSENT),
        ("Sony KDL-46V4100", "sony kdl 46v4100", "model", Verdict.AGREE),
        ("Sony KDL-46V4100", "Sony KDL-40V4100", "model", Verdict.CONFLICT),
        ("Casio AW-590-1AER", "Casio AW-590-1A", "model", Verdict.ABSENT),
        ("Sony DSCW120", "Sony DSCW120P", "model", Verdict.ABSENT),
    ],
)
def test_verdicts(left: str, right: str, kind: str, verdict: Verdict) -> None:
    assert compared(left, right)[kind].verdict is verdict


def test_a_conflict_tells_people_why() -> None:
    found = vetoes(compared("Madu hutan 500gr isi 2", "Madu hutan 1 kg isi 3"))
    assert [(one.kind, one.left, one.right) for one in found] == [("mass", "500 g", "1 kg"), ("count", "2 pcs", "3 pcs")]


@pytest.mark.parametrize(
    ("title", "texts"),
    [
        ("Peanut butter 16 oz", ["16 oz", "16 oz"]),
        ("Madu 1/2 kg usia 1 tahun", ["0.5 kg", "1 year"]),
        ("Kaos kaki 1 pasang XL", ["1 pair", "", "XL"]),
        ("Lens 18-55mm f/3.5-5.6", ["18-55 mm", "f/3.5-5.6"]),
        ("Sampo 2x100ml", ["100 ml", "", "2 pcs"]),
        ("Alkohol 70% 20x30", ["20 x 30", "70%"]),
    ],
)
def test_values_are_written_for_people(title: str, texts: list[str]) -> None:
    assert [value.text for value in read_facts(title).values] == texts


@pytest.mark.parametrize(
    ("left", "right", "kinds"),
    [
        ("Masker 1 pcs", "Masker 50 pcs", []),  # a price per piece
        ("Oreo 29.4 g", "Oreo 28.5 g", []),  # a recipe changes, or what is weighed
        ("Disk 2.5 inch", "Disk 7mm", []),  # different sides of a thing
        ("Cable 1 m", "Cable 2 m", ["length"]),
        ("Shoes size 42", "Shoes size 43", []),  # sizes are variants of one product
        ("Alat SDW334", "Alat SDW328", []),  # sellers have codes of their own
        ("Serum 50 ml", "Serum 100 ml", ["volume"]),
        ("Serum 50ml 60 g", "Serum 100ml 90 g", ["mass", "volume"]),
        ("Buy 2 get 1 soap", "Buy 3 get 1 soap", []),
        ("Lens 50mm f/1.8", "Lens 50mm f/1.4", ["aperture"]),
    ],
)
def test_only_firm_conflicts_veto(left: str, right: str, kinds: list[str]) -> None:
    assert sorted(one.kind for one in vetoes(compared(left, right))) == kinds


def test_close_values_and_codes_are_told_as_numbers() -> None:
    assert compared("Madu 500 g", "Madu 1 kg")["mass"].similarity == 0.5
    assert compared("Casio AW-590-1AER", "Casio AW-590-1A")["model"].similarity == pytest.approx(7 / 9)
    assert similarity("kdl46v4100", "kdl40v4100") == 0.9
    assert similarity("abc", "xyz") == 0
    assert is_variant("dscw120", "dscw120p")
    assert not is_variant("abc", "abcd")


def test_all_kinds_are_compared_in_order() -> None:
    nothing = compared("Sepatu lari", "Sepatu")
    assert tuple(nothing) == KINDS
    assert all((one.verdict, one.left, one.right, one.similarity) == (Verdict.ABSENT, "", "", 0) for one in nothing.values())
    assert all(name == one.kind for name, one in nothing.items())


@pytest.mark.parametrize(
    ("text", "unit", "amount"),
    [
        ("1.000", "ml", 1000),
        ("1,000", "g", 1000),
        ("1.500", "kg", 1.5),
        ("0.500", "ml", 0.5),
        ("1,5", "kg", 1.5),
        ("1.234.567", "", 1234567),
        ("1,234.5", "", 1234.5),
        ("1.234,5", "", 1234.5),
        ("1.2.3", "", None),
        ("1,2,3.4.5", "", None),
        ("001", "", None),
        ("1" * 13, "", None),
    ],
)
def test_numbers_are_written_in_several_ways(text: str, unit: str, amount: float | None) -> None:
    assert number(text, unit) == amount


# --- properties

TITLES = st.sampled_from([row["title"] for row in table("quantity_titles.csv")])
WORDS = st.text(st.sampled_from("bcdhjnqrtz"), min_size=6, max_size=10)
ANYTHING = st.text(st.one_of(st.characters(), st.sampled_from("0123456789 .,/-x\"'%gkmlscXL()+&")), max_size=60)


@given(ANYTHING)
def test_any_text_is_read(text: str) -> None:
    facts = read_facts(text)
    assert hash(facts) == hash(read_facts(f"{text}"))
    assert all(value.kind in KINDS and value.low <= value.high for value in facts.values)
    assert all(one.verdict is not Verdict.CONFLICT for one in compare_facts(facts, facts).values())


@pytest.mark.parametrize("part", ['{}" ', "{}/", "{} g ", "ab{}c-", "{}x", "'{}", "s/m/{}xl/", "f/{} - "])
def test_facts_of_the_longest_titles_are_few(part: str) -> None:
    facts = read_facts("".join(part.format(n) for n in range(1, 400))[:2000])
    assert len(facts.values) <= MAX_FACTS
    assert len(facts.codes) <= MAX_FACTS
    assert len(facts.joined) <= MAX_FACTS
    assert compare_facts(facts, facts)


@given(st.one_of(ANYTHING, TITLES), st.one_of(ANYTHING, TITLES))
def test_comparisons_are_symmetric(left: str, right: str) -> None:
    there, back = compared(left, right), compared(right, left)
    for kind, one in there.items():
        other = back[kind]
        assert (one.verdict, one.left, one.right, one.firm) == (other.verdict, other.right, other.left, other.firm)
        assert one.similarity == pytest.approx(other.similarity)
        assert 0 <= one.similarity <= 1
        assert (one.similarity == 1) == (one.verdict is Verdict.AGREE)
    assert [one.kind for one in vetoes(there)] == [one.kind for one in vetoes(back)]


@given(st.one_of(TITLES, st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=60)))
def test_case_does_not_matter(title: str) -> None:
    assume(title.upper().lower() == title.lower())
    assert read_facts(title.upper()) == read_facts(title.lower()) == read_facts(title)


@pytest.mark.parametrize(("small", "large"), [("g", "kg"), ("ml", "l"), ("gram", "kilo"), ("mm", "m"), ("watt", "kW")])
@given(amount=st.integers(1, 99_999))
def test_units_can_be_scaled(small: str, large: str, amount: int) -> None:
    scaled = f"{amount / 1000:.6f}".rstrip("0").rstrip(".")
    assert read_facts(f"Barang {amount} {small}") == read_facts(f"Barang {scaled} {large}")


@given(TITLES, WORDS, WORDS)
def test_unrelated_words_around_change_nothing(title: str, before: str, after: str) -> None:
    assert described(read_facts(f"{before} {title} {after}")) == described(read_facts(title))


@given(st.integers(1, 4999), st.sampled_from(["isi {}", "{} pcs", "pack of {}", "{}pcs", "(isi {})", "paquete de {}"]))
def test_counts_are_read_however_they_are_said(count: int, pattern: str) -> None:
    assert [value.low for value in read_facts(f"Masker kain {pattern.format(count)}").by_kind["count"]] == [count]


@pytest.mark.parametrize(
    ("kind", "title"),
    [
        ("mass", "Madu {} g"),
        ("volume", "Sampo {}ml"),
        ("count", "Masker isi {}"),
        ("storage", "Disk {}GB"),
        ("charge", "Power bank {} mAh"),
    ],
)
@given(one=st.integers(2, 4000), other=st.integers(2, 4000))
def test_amounts_that_are_far_apart_veto(kind: str, title: str, one: int, other: int) -> None:
    comparison = compared(title.format(one), title.format(other))
    apart = min(one, other) < 0.8 * max(one, other)
    assert (comparison[kind].verdict is Verdict.AGREE) or one != other
    if apart:
        assert [veto.kind for veto in vetoes(comparison)] == [kind]
