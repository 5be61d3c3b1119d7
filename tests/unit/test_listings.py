from __future__ import annotations

import gzip
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from app.core.product import ProductLimits
from app.errors import InvalidInput, InvalidListings
from app.listings import BadRow, Columns, Listing, count_rows, read_table

CSV = "id,title,image,brand\n1,Red shoe,a.jpg,Nike\n2,Blue shoe,,\n"
JSONL = '{"id": "1", "title": "Red shoe", "image": "a.jpg", "brand": "Nike"}\n\n{"id": 2, "title": "Blue shoe"}\n'
EXPECTED = [Listing(1, "1", "Red shoe", (b"A",), {"brand": "Nike"}), Listing(2, "2", "Blue shoe", ())]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with two photos."""
    (tmp_path / "a.jpg").write_bytes(b"A")
    (tmp_path / "b.jpg").write_bytes(b"B")
    return tmp_path


def table(folder: Path, content: str | bytes, name: str = "listings.csv") -> Path:
    data = content.encode() if isinstance(content, str) else content
    (folder / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return folder / name


def lines(*rows: object) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def parquet(folder: Path, **columns: Any) -> Path:
    pq.write_table(pa.table(columns), folder / "listings.parquet")
    return folder / "listings.parquet"


def good(rows: Iterable[Listing | BadRow]) -> list[Listing]:
    found = []
    for row in rows:
        assert isinstance(row, Listing), row
        found.append(row)
    return found


def sorted_out(rows: Iterable[Listing | BadRow]) -> list[str | InvalidInput | None]:
    """Ids of good rows, errors of bad ones."""
    found: list[str | InvalidInput | None] = []
    for row in rows:
        if isinstance(row, BadRow):
            assert isinstance(row.error, InvalidInput)
            found.append(row.error)
        else:
            found.append(row.id)
    return found


# -- kinds of tables ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("t.csv", CSV), ("t.csv.gz", CSV), ("t.jsonl", JSONL), ("t.ndjson", JSONL), ("t.jsonl.gz", JSONL),
        ("t.ndjson.gz", JSONL), ("t.csv", "\ufeff" + CSV), ("t.csv.gz", "\ufeff" + CSV), ("t.jsonl", "\ufeff" + JSONL),
        ("t.csv", CSV.replace("\n", "\r\n")), ("t.csv", CSV + "\n\n"),
        ("t.csv", 'id,title,image,brand\n1,"Red shoe",a.jpg,"Nike"\n2,"Blue shoe","",""'),
    ],
)  # fmt: skip
def test_a_text_table_is_read(folder: Path, name: str, content: str) -> None:
    assert good(read_table(table(folder, content, name))) == EXPECTED


def test_a_table_may_say_where_its_photos_are(folder: Path) -> None:
    (folder / "tables").mkdir()
    assert good(read_table(table(folder / "tables", CSV), images=folder)) == EXPECTED


def test_a_photo_may_be_named_by_an_absolute_path(folder: Path) -> None:
    path = table(folder, f"image\n{folder / 'b.jpg'}\n")
    assert good(read_table(path, images=folder / "elsewhere"))[0].images == (b"B",)


def test_a_quoted_cell_may_hold_commas_and_lines(folder: Path) -> None:
    assert good(read_table(table(folder, 'id,title\n1,"Shoe, red\nsize 42"\n')))[0].title == "Shoe, red\nsize 42"


def test_shopee_column_names_are_known(folder: Path) -> None:
    text = "posting_id,image,image_phash,title,label_group\ntrain_1,a.jpg,94974f937d4c2433,Paper Bag,249114794\n"
    assert good(read_table(table(folder, text))) == [Listing(1, "train_1", "Paper Bag", (b"A",), {}, "249114794")]


def test_columns_can_be_named(folder: Path) -> None:
    text = "sku,name,picture,family,id\nS1,Shoe,a.jpg,G,7\n"
    found = good(read_table(table(folder, text), Columns(id="sku", title="name", image="picture", group="family")))
    assert found == [Listing(1, "S1", "Shoe", (b"A",), {"id": "7"}, "G")]


def test_rows_may_have_no_id(folder: Path) -> None:
    assert [(row.row, row.id) for row in good(read_table(table(folder, "title\na\nb\n")))] == [(1, None), (2, None)]
    assert [row.id for row in good(read_table(table(folder, "id,title\n,a\n2,b\n")))] == [None, "2"]


@pytest.mark.parametrize("cell", ["a.jpg|b.jpg", " a.jpg | b.jpg ", "a.jpg||b.jpg|"])
def test_several_photos_are_separated_by_bars(folder: Path, cell: str) -> None:
    assert good(read_table(table(folder, f"image\n{cell}\n")))[0].images == (b"A", b"B")


def test_several_photos_may_be_a_json_list(folder: Path) -> None:
    assert good(read_table(table(folder, lines({"images": ["a.jpg", "b.jpg"]}), "t.jsonl")))[0].images == (b"A", b"B")


def test_json_attributes_keep_their_types_and_empty_ones_are_left_out(folder: Path) -> None:
    row = {"id": 1, "title": "x", "size": 42, "price": 1.5, "new": True, "note": None, "memo": ""}
    assert good(read_table(table(folder, lines(row), "t.jsonl")))[0].attributes == {"size": 42, "price": 1.5, "new": True}


def test_json_lines_may_leave_keys_out(folder: Path) -> None:
    rows = lines(
        {"title": "first"}, {"id": "two", "image": "b.jpg"}, {"posting_id": "three", "title": "x", "label_group": 3}
    )
    found = good(read_table(table(folder, rows, "t.jsonl")))
    assert found == [Listing(1, None, "first", ()), Listing(2, "two", None, (b"B",)), Listing(3, "three", "x", (), {}, "3")]


# -- Parquet --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "images",
    [
        [b"A", None],
        ["a.jpg", None],
        ["a.jpg", ""],
        [{"bytes": b"A", "path": "x.jpg"}, None],
        [[b"A"], None],
        [["a.jpg"], []],
        [[{"bytes": b"A", "path": None}], []],
    ],
)
def test_parquet_photos_are_bytes_paths_structures_or_lists(folder: Path, images: list[object]) -> None:
    path = parquet(folder, id=["1", "2"], title=["Red shoe", "Blue shoe"], image=images, brand=["Nike", None])
    assert good(read_table(path)) == EXPECTED


def test_a_parquet_list_may_hold_several_photos(folder: Path) -> None:
    path = parquet(folder, image=[[b"A", b"B"], [b"C"]])
    assert [row.images for row in good(read_table(path))] == [(b"A", b"B"), (b"C",)]


def test_a_parquet_structure_without_bytes_names_a_file(folder: Path) -> None:
    path = parquet(folder, image=[{"bytes": None, "path": "a.jpg"}, {"bytes": b"B", "path": None}])
    assert [row.images for row in good(read_table(path))] == [(b"A",), (b"B",)]


def test_parquet_numbers_are_ids_groups_and_attributes(folder: Path) -> None:
    path = parquet(folder, id=[7], title=["x"], label_group=[249114794], price=[1.5], new=[True])
    assert good(read_table(path)) == [Listing(1, "7", "x", (), {"price": 1.5, "new": True}, "249114794")]


def test_parquet_tables_are_read_in_order_over_many_batches(folder: Path) -> None:
    path = parquet(folder, id=[str(n) for n in range(1300)], title=["x"] * 1300)
    found = good(read_table(path))
    assert [row.id for row in found] == [str(n) for n in range(1300)]
    assert [row.row for row in found] == list(range(1, 1301))


def test_a_nested_parquet_cell_costs_its_row(folder: Path) -> None:
    path = parquet(folder, id=["1", "2"], title=["x", "y"], extra=[{"a": 1}, None])
    bad, fine = sorted_out(read_table(path))
    assert isinstance(bad, InvalidInput)
    assert fine == "2"


# -- folders --------------------------------------------------------------------------------------------------


def test_a_folder_of_photos_is_a_table(folder: Path) -> None:
    (folder / "many").mkdir()
    (folder / "many" / "2.PNG").write_bytes(b"2")
    (folder / "many" / "1.png").write_bytes(b"1")
    (folder / "many" / "notes.txt").write_bytes(b"no photo")
    (folder / "notes.txt").write_bytes(b"no photo")
    found = good(read_table(folder))
    assert found == [Listing(1, "a", None, (b"A",)), Listing(2, "b", None, (b"B",)), Listing(3, "many", None, (b"1", b"2"))]
    assert count_rows(folder) == 3


def test_a_photo_that_cannot_be_read_costs_its_row(folder: Path) -> None:
    (folder / "c.jpg").symlink_to("nowhere")
    assert [isinstance(row, BadRow) for row in read_table(folder)] == [False, False, True]


def test_a_folder_without_photos_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    with pytest.raises(InvalidListings, match="no photos"):
        list(read_table(tmp_path))


# -- tables that cannot be used -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.xlsx", b"PK", "none of"),
        ("t.gz", b"", "none of"),
        ("t.csv", b"", "empty"),
        ("t.csv", b"\n\n", "empty"),
        ("t.csv", b"id,name,picture\n1,a,b\n", "neither a title nor an image"),
        ("t.csv", b"id,title\n1,caf\xe9\n", "not UTF-8"),
        ("t.jsonl", b'{"title": "caf\xe9"}\n', "not UTF-8"),
        ("t.csv", CSV.encode("utf-16"), "not UTF-8"),
        ("t.parquet", b"PAR1 no parquet", "not a Parquet file"),
        ("t.parquet", b"", "not a Parquet file"),
    ],
)
def test_a_table_that_cannot_be_read_is_refused(folder: Path, name: str, content: bytes, message: str) -> None:
    with pytest.raises(InvalidListings, match=message):
        list(read_table(table(folder, content, name)))


def test_a_missing_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidListings, match="does not exist"):
        list(read_table(tmp_path / "missing.csv"))


@pytest.mark.parametrize("data", [b"not compressed", gzip.compress(CSV.encode() * 50)[:60]], ids=["not gzip", "cut off"])
@pytest.mark.parametrize("name", ["t.csv.gz", "t.jsonl.gz"])
def test_a_damaged_gzip_file_is_refused(folder: Path, data: bytes, name: str) -> None:
    (folder / name).write_bytes(data)
    with pytest.raises(InvalidListings, match=name):
        list(read_table(folder / name))


def test_a_damaged_parquet_page_is_refused(folder: Path) -> None:
    path = parquet(folder, id=[str(n) for n in range(100)], title=["x" * 50] * 100)
    data = bytearray(path.read_bytes())
    data[4:200] = b"\xff" * 196
    path.write_bytes(data)
    with pytest.raises(InvalidListings, match="Parquet"):
        list(read_table(path))


@pytest.mark.parametrize("role", ["id", "title", "image", "group", "phash"])
def test_a_column_that_was_named_must_be_there(folder: Path, role: str) -> None:
    with pytest.raises(InvalidListings, match=f"no column 'sku' for the {role}"):
        list(read_table(table(folder, CSV), Columns(**{role: "sku"})))


# -- rows that cannot be used ---------------------------------------------------------------------------------


def test_a_row_and_a_table_hold_no_more_than_the_limits(folder: Path) -> None:
    table = folder / "wide.csv"
    table.write_text("title,a,b,c\nx,1,,\ny,1,2,\n")
    small = ProductLimits(attributes=1, table_columns=4)
    good, bad = read_table(table, limits=small)
    assert (type(good), type(bad)) == (Listing, BadRow)
    with pytest.raises(InvalidListings, match="at most 3"):
        list(read_table(table, limits=ProductLimits(table_columns=3)))


def test_an_address_of_a_photo_is_an_attribute_unless_it_is_asked_for(folder: Path) -> None:
    table = folder / "remote.csv"
    table.write_text("title,image_url\nx,http://a.example/1|http://a.example/2\n")
    (kept,) = read_table(table)
    assert isinstance(kept, Listing)
    assert (kept.image_urls, set(kept.attributes)) == ((), {"image_url"})
    (asked,) = read_table(table, Columns(image_url="image_url"))
    assert isinstance(asked, Listing)
    assert (len(asked.image_urls), asked.attributes) == (2, {})


def test_ragged_csv_rows_are_left_out_and_the_rest_goes_on(folder: Path) -> None:
    rows = list(read_table(table(folder, "id,title\n1,a\n2\n3,c,more\n4,d\n")))
    assert [row.row for row in rows if isinstance(row, BadRow)] == [2, 3]
    assert [row.id for row in rows if isinstance(row, Listing)] == ["1", "4"]
    assert "line 3" in str(sorted_out(rows)[1])


@pytest.mark.parametrize(
    "line",
    [
        "not json", "[1]", "3", '"text"', "null", "{", "[" * 100_000, '{"id": ' + "9" * 5000 + "}",
        '{"id": 2, "title": ["a"]}', '{"id": 2, "title": {}}', '{"id": [2], "title": "x"}',
        '{"id": 2, "title": "x", "extra": {"nested": 1}}', '{"id": 2, "title": "x", "extra": [1]}',
        '{"id": 2, "title": "x", "extra": NaN}', '{"id": 2, "title": "x", "extra": 1e400}',
        '{"id": 2, "image": 5}', '{"id": 2, "image": [null]}', '{"id": 2, "image": {"bytes": "text"}}',
        '{"id": 2, "image": "missing.jpg"}', '{"id": 2, "image": "a.jpg|missing.jpg"}', '{"id": 2, "image": "."}',
        '{"id": 2, "image": "a\\u0000.jpg"}', '{"id": 2, "image": "a\\ud800.jpg"}',
    ],
    ids=lambda line: ascii(line[:40]),
)  # fmt: skip
def test_a_bad_json_line_is_left_out_and_the_rest_goes_on(folder: Path, line: str) -> None:
    content = lines({"id": 1, "title": "first", "image": "a.jpg"}) + line + "\n" + lines({"id": 3, "title": "last"})
    first, bad, last = sorted_out(read_table(table(folder, content, "t.jsonl")))
    assert (first, last) == ("1", "3")
    assert isinstance(bad, InvalidInput)


def test_a_bad_first_line_does_not_hide_the_columns(folder: Path) -> None:
    bad, fine = sorted_out(read_table(table(folder, "oops\n" + lines({"id": "a", "title": "x"}), "t.jsonl")))
    assert isinstance(bad, InvalidListings)
    assert fine == "a"


def test_an_unreadable_photo_costs_only_its_row_and_is_named(folder: Path) -> None:
    rows = list(read_table(table(folder, "id,image\n1,a.jpg\n2,gone.jpg\n3,b.jpg\n")))
    assert isinstance(rows[1], BadRow)
    assert (rows[1].row, rows[1].id) == (2, "2")
    assert "gone.jpg" in str(rows[1].error)
    assert [row.id for row in rows if isinstance(row, Listing)] == ["1", "3"]


# -- counting -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("t.csv", CSV, 2), ("t.csv", CSV.rstrip(), 2), ("t.csv", "id,title\n", 0), ("t.csv", "", 0), ("t.jsonl", JSONL, 2),
        ("t.ndjson", "", 0), ("t.csv.gz", CSV, None),
    ],
)  # fmt: skip
def test_rows_are_counted_where_that_is_cheap(folder: Path, name: str, content: str, expected: int | None) -> None:
    assert count_rows(table(folder, content, name)) == expected


def test_the_rows_of_parquet_and_of_nothing_are_counted(folder: Path) -> None:
    assert count_rows(parquet(folder, title=["a", "b", "c"])) == 3
    assert count_rows(folder / "missing.csv") is None


def test_a_damaged_parquet_file_cannot_be_counted_and_breaks_nothing(folder: Path) -> None:
    assert count_rows(table(folder, b"no parquet", "t.parquet")) is None
