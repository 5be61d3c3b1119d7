from __future__ import annotations

import gzip
import hashlib
import pickle
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from app.errors import InvalidInput, InvalidListings
from app.labelled.listings import Item, LabelledListings, fingerprint, read_labelled
from app.labelled.pairs import PairColumns, read_pairs
from app.listings import Columns, PhotoRef, count_rows
from tests.unit.photos import noise, png, saved

PHOTOS = {name: saved(noise(n), "PNG") for n, name in enumerate(("a.png", "b.png", "c.png"))}
HEADER = "id,title,image,group,image_phash\n"
GOOD = HEADER + "1,Red shoe,a.png,g1,00000000000000ff\n2,Shoe red,b.png,g1,\n3,Blue hat,,g2,\n4,,c.png,g2,FFFFFFFFFFFFFFFF\n"
PAIRS = "left_title,right_title,label\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with three photos."""
    for name, data in PHOTOS.items():
        (tmp_path / name).write_bytes(data)
    return tmp_path


def table(folder: Path, content: str, name: str = "train.csv") -> Path:
    data = content.encode()
    (folder / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return folder / name


def parquet(folder: Path, name: str = "train.parquet", **columns: Any) -> Path:
    pq.write_table(pa.table(columns), folder / name)
    return folder / name


def read(path: Path, **options: Any) -> LabelledListings:
    return read_labelled(path, strict=False, **options)


def reasons(found: LabelledListings) -> list[tuple[int, str]]:
    return [(problem.row, str(problem.error)) for problem in found.problems]


def ids(found: LabelledListings) -> list[str]:
    return [item.id for item in found.items]


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


# -- tables that are right ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["train.csv", "train.csv.gz"])
@pytest.mark.parametrize("strict", [True, False])
def test_a_table_is_read_with_its_photos_left_on_disk(folder: Path, name: str, strict: bool) -> None:
    def photo(name: str) -> dict[str, Any]:
        return {"photo": PhotoRef(folder / name), "digest": sha256(PHOTOS[name])}

    found = read_labelled(table(folder, GOOD, name), strict=strict)
    assert found.problems == []
    assert found.items == [
        Item(1, "1", "g1", "Red shoe", phash=255, **photo("a.png")),
        Item(2, "2", "g1", "Shoe red", **photo("b.png")),
        Item(3, "3", "g2", "Blue hat", None),
        Item(4, "4", "g2", None, phash=2**64 - 1, **photo("c.png")),
    ]
    assert [item.photo.read() for item in found.items if item.photo] == list(PHOTOS.values())


def test_a_photo_on_disk_is_read_when_it_is_asked_for(folder: Path) -> None:
    photo = read(table(folder, GOOD)).items[0].photo
    assert photo is not None
    (folder / "a.png").write_bytes(b"another")
    assert photo.read() == b"another"
    (folder / "a.png").unlink()
    with pytest.raises(InvalidInput, match=r"a\.png.*--images"):
        photo.read()


def test_listings_travel_to_worker_processes(folder: Path) -> None:
    items = read(table(folder, GOOD)).items
    assert pickle.loads(pickle.dumps(items)) == items


def test_parquet_holds_the_photos_itself(folder: Path) -> None:
    path = parquet(folder, id=[1, 2], title=["x", None], group=[7, 7], image=[PHOTOS["a.png"], PHOTOS["b.png"]])
    first, second = read_labelled(path, strict=True).items
    assert first == Item(1, "1", "7", "x", PhotoRef(PHOTOS["a.png"]), None, sha256(PHOTOS["a.png"]))
    assert (second.title, second.photo and second.photo.read()) == (None, PHOTOS["b.png"])


def test_json_lines_are_read(folder: Path) -> None:
    text = '{"id": "1", "title": "x", "group": 3}\n{"id": "2", "image": ["a.png"], "group": 3}\n'
    assert [item.group for item in read_labelled(table(folder, text, "t.jsonl"), strict=True).items] == ["3", "3"]


def test_titles_are_cleaned_and_labels_stripped(folder: Path) -> None:
    text = "title,group\n \\xe2\\x98\\x85 A  &amp; B , g \nC,g\n"
    assert [(item.title, item.group) for item in read(table(folder, text)).items] == [("★ A & B", "g"), ("C", "g")]


@pytest.mark.parametrize("text", ["title,group\nx,g\ny,g\n", "image,group\na.png,g\nb.png,g\n"])
def test_a_whole_modality_may_be_missing(folder: Path, text: str) -> None:
    assert len(read_labelled(table(folder, text), strict=True).items) == 2


def test_several_photos_are_several_items_of_one_listing(folder: Path) -> None:
    text = HEADER + "1,x,a.png|b.png,g,00000000000000ff\n"
    found = read_labelled(table(folder, text), strict=True)
    assert [(i.row, i.id, i.title, i.phash) for i in found.items] == [(1, "1", "x", 255), (1, "1", "x", None)]
    assert [i.photo for i in found.items] == [PhotoRef(folder / "a.png"), PhotoRef(folder / "b.png")]
    assert fingerprint(found.items)["listings"] == 1


def test_rows_without_ids_are_named_by_their_number(folder: Path) -> None:
    assert ids(read(table(folder, "title,group\nx,g\ny,g\n"))) == ["row 1", "row 2"]


def test_a_family_is_read_where_it_is_named(folder: Path) -> None:
    path = table(folder, "title,group,family\nx,g,f\ny,g,\n")
    assert [item.family for item in read(path).items] == [None, None]
    assert [item.family for item in read(path, columns=Columns(family="family")).items] == ["f", None]


def test_every_row_ticks(folder: Path) -> None:
    path, ticks = table(folder, GOOD + "ragged\n5,,,g1,\n"), list[int]()
    read(path, tick=ticks.append)
    assert sum(ticks) == count_rows(path) == 6


# -- tables that are wrong ------------------------------------------------------------------------------------


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,title\n1,x\n", "train.csv has no group column, only: id, title. Name it with --group-column"),
        ("id,group\n1,g\n", "neither a title nor an image column"),
        ("", "empty"),
        ("id,title,group\n", "train.csv has no rows"),
        ("title,group\n,g\n", "train.csv, row 1: the row has neither a title nor a photo"),
        ("image,group\ngone.png,g\nlost.png,g\n", "train.csv, row 1: photo .*gone.png.*--images"),
    ],
)
def test_a_table_of_no_use_is_always_refused(folder: Path, text: str, message: str, strict: bool) -> None:
    with pytest.raises(InvalidListings, match=message):
        read_labelled(table(folder, text), strict=strict)


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("needs_group", [True, False])
@pytest.mark.parametrize(
    ("text", "name"), [("title,group\nx,\ny, \n", "t.csv"), ('{"title": "x"}\n{"title": "y"}\n', "t.jsonl")]
)
def test_a_table_without_groups_is_always_refused(
    folder: Path, text: str, name: str, strict: bool, needs_group: bool
) -> None:
    with pytest.raises(InvalidListings, match=r"group.*--group-column"):
        read_labelled(table(folder, text, name), strict=strict, needs_group=needs_group)


def test_not_a_number_is_no_group(folder: Path) -> None:
    group = pa.array([float("nan"), float("nan"), 2.0], from_pandas=False)
    assert ids(read(parquet(folder, id=["1", "2", "3"], title=["x", "y", "z"], group=group))) == ["3"]


def test_a_group_whose_rows_are_all_bad_is_none(folder: Path) -> None:
    path = table(folder, "title,image,group\nx,,\n,gone.png,g\n")
    with pytest.raises(InvalidListings, match=r"no row with a group that can be used.*gone\.png"):
        read(path, needs_group=False)


def test_a_folder_is_no_table(folder: Path) -> None:
    with pytest.raises(InvalidListings, match="is a folder"):
        read(folder)


WRONG_ROWS = [
    ("5,x,gone.png,g1,", ["5"], "photo .*gone.png.* cannot be read .*--images"),
    ("5,,gone.png,g1,", [], "photo .*gone.png.* cannot be read .*--images"),
    ("5,x,text.png,g1,", ["5"], "the photo is damaged, or none of JPEG"),
    ("5,x,bent.png,g1,", ["5"], "the photo is damaged, or none of JPEG"),
    ("5,,text.png,g1,", [], "the photo is damaged, or none of JPEG"),
    ("5,x,tiny.png,g1,", ["5"], "8 x 8 pixels"),
    ("5,x,vast.png,g1,", ["5"], "more than 50,000,000 pixels"),
    ("5,x,wide.png,g1,", ["5"], "60000 x 1000 pixels"),
    ("5,x,a.png|gone.png,g1,", ["5"], "gone.png"),
    ("1,x,,g1,", [], "id '1' stands in an earlier row: give every listing its own id"),
    ("5,,,g1,", [], "neither a title nor a photo: fill one"),
    ("5,  , ,g1,", [], "neither a title nor a photo: fill one"),
    ("5,\u200b,,g1,", [], "the title is empty"),
    ("5,\u200b,a.png,g1,", ["5"], "the title is empty"),
    (f"5,{'x' * 2001},,g1,", [], "2,001 characters.*shorten it"),
    ("5,x,,,", [], "no group: fill the cell, or name the column with --group-column"),
    ("5,x,,g1,12345", [], "image_phash must be 16 hexadecimal digits, not '12345': correct it"),
    ("5,x,,g1,0x123456789abcde", [], "image_phash must be 16 hexadecimal digits"),
]


@pytest.fixture
def odd_photos(folder: Path) -> Path:
    """Photos that are none, or of a size that is not taken."""
    (folder / "text.png").write_bytes(b"no photo")
    bent = PHOTOS["a.png"]
    (folder / "bent.png").write_bytes(bent[:100] + bytes([bent[100] ^ 1]) + bent[101:])
    (folder / "tiny.png").write_bytes(png(8, 8, 8, 0, b"\0" * 72))
    (folder / "vast.png").write_bytes(png(60_000, 60_000, 8, 0, b"\0"))
    (folder / "wide.png").write_bytes(png(60_000, 1000, 8, 0, b"\0"))
    return folder


@pytest.mark.parametrize(("row", "kept", "message"), WRONG_ROWS)
def test_a_wrong_row_is_reported_and_what_is_usable_kept(odd_photos: Path, row: str, kept: list[str], message: str) -> None:
    found = read(table(odd_photos, f"{GOOD}{row}\n6,last,,g1,\n"))
    assert ids(found) == ["1", "2", "3", "4", *kept, "6"]
    ((number, reason),) = reasons(found)
    assert number == 5
    assert reason.startswith("train.csv, row 5: ")
    with pytest.raises(InvalidListings, match=message):
        raise found.problems[0].error


@pytest.mark.parametrize(("row", "kept", "message"), WRONG_ROWS)
def test_a_wrong_row_stops_strict_reading(odd_photos: Path, row: str, kept: list[str], message: str) -> None:
    del kept
    with pytest.raises(InvalidListings, match=f"train.csv, row 5: .*{message}"):
        read_labelled(table(odd_photos, f"{GOOD}{row}\n6,last,,g1,\n"), strict=True)


def test_of_a_bad_photo_the_rest_of_its_row_stays(odd_photos: Path) -> None:
    rows = "5,x,text.png,g1,00000000000000ff\n6,y,gone.png|b.png,g1,00000000000000ff\n"
    five, six = read(table(odd_photos, GOOD + rows)).items[-2:]
    assert (five.title, five.photo, five.phash, five.digest) == ("x", None, 255, None)
    assert (six.title, six.photo, six.phash) == ("y", PhotoRef(odd_photos / "b.png"), None)  # the hash is of the first


def test_bad_bytes_in_parquet_are_reported(folder: Path) -> None:
    path = parquet(folder, id=["1", "2"], title=["x", "y"], group=["g", "g"], image=[b"no photo", PHOTOS["a.png"]])
    found = read(path)
    assert [item.photo is None for item in found.items] == [True, False]
    assert [row for row, _ in reasons(found)] == [1]
    with pytest.raises(InvalidListings, match=r"train\.parquet, row 1: the photo is damaged"):
        read_labelled(path, strict=True)


def test_an_id_that_was_of_no_use_may_come_again(folder: Path) -> None:
    found = read(table(folder, GOOD + "5,,gone.png,g1,\n5,x,,g1,\n"))
    assert ids(found)[-1] == "5"
    assert [row for row, _ in reasons(found)] == [5]


def test_a_ragged_line_is_named_once(folder: Path) -> None:
    assert reasons(read(table(folder, GOOD + "5\n"))) == [
        (5, "train.csv, line 6: the row has not as many cells as the header.")
    ]


def test_photos_that_are_all_absent_are_one_problem(folder: Path) -> None:
    rows = "".join(f"{n},title {n},gone{n}.png,g{n // 2},\n" for n in range(100)) + "200,,gone.png,g0,\n"
    found = read(table(folder, HEADER + rows))
    assert len(found.items) == 100
    assert all(item.photo is None for item in found.items)
    ((row, reason),) = reasons(found)
    assert row == 0
    assert "none of the 101 photos it names can be read, only titles are used" in reason
    assert "gone0.png" in reason
    assert "--images" in reason
    (folder / "gone7.png").write_bytes(PHOTOS["a.png"])
    assert len(read(table(folder, HEADER + rows)).problems) == 100


def test_strict_reading_stops_at_the_first_absent_photo(folder: Path) -> None:
    with pytest.raises(InvalidListings, match=r"row 1: photo .*gone\.png.*--images"):
        read_labelled(table(folder, HEADER + "1,x,gone.png,g,\n2,y,lost.png,g,\n"), strict=True)


def test_photos_may_lie_in_another_folder(folder: Path) -> None:
    (folder / "tables").mkdir()
    path = table(folder / "tables", GOOD)
    assert read_labelled(path, images=folder, strict=True).items == read(table(folder, GOOD)).items


def test_groups_of_one_listing_are_kept_and_counted_once(folder: Path) -> None:
    path = table(folder, GOOD + "5,x,,alone,\n6,y,,lonely,\n")
    found = read(path)
    assert ids(found)[-2:] == ["5", "6"]
    ((row, reason),) = reasons(found)
    assert row == 0
    assert "2 of 4 groups have one listing only, the first is 'alone' in row 5" in reason
    with pytest.raises(InvalidListings, match=r"train\.csv: 2 of 4 groups have one listing only"):
        read_labelled(path, strict=True)
    assert read_labelled(path, strict=True, needs_group=False).problems == []


def test_a_gallery_may_hold_listings_without_groups(folder: Path) -> None:
    found = read_labelled(table(folder, GOOD + "5,x,,,\n"), strict=True, needs_group=False)
    assert found.items[-1] == Item(5, "5", None, "x", None)


@pytest.mark.parametrize("text", ["id,title\n1,x\n2,y\n", "id,title,group\n1,x,\n2,y,\n"])
def test_a_gallery_may_lack_groups_altogether_where_that_is_said(folder: Path, text: str) -> None:
    found = read_labelled(table(folder, text), strict=True, needs_group=False, may_lack_groups=True)
    assert [(item.id, item.group) for item in found.items] == [("1", None), ("2", None)]
    with pytest.raises(InvalidListings, match="has no rows"):
        read_labelled(table(folder, "id,title\n"), strict=True, needs_group=False, may_lack_groups=True)


# -- fingerprint ----------------------------------------------------------------------------------------------


def test_a_fingerprint_counts_and_does_not_depend_on_the_order(folder: Path) -> None:
    items = read(table(folder, GOOD + "5,x,,alone,\n6,y,,,\n"), needs_group=False).items
    made = fingerprint(items)
    assert {key: value for key, value in made.items() if key != "sha256"} == {
        "listings": 6, "groups": 3, "groups_of_two_or_more": 2, "with_title": 5, "with_photo": 3,
    }  # fmt: skip
    assert fingerprint(reversed(items)) == made
    shuffled = "".join([HEADER, *sorted(GOOD.splitlines(keepends=True)[1:], reverse=True)])
    assert fingerprint(read(table(folder, shuffled)).items) == fingerprint(read(table(folder, GOOD)).items)


def test_a_fingerprint_is_the_same_on_every_machine() -> None:
    lines = '["1", "g", "\\u2605 x", null]\n["2", "g", null, "ab"]'
    items = [Item(2, "2", "g", None, PhotoRef(b"?"), digest="ab"), Item(1, "1", "g", "★ x", None)]
    assert fingerprint(items)["sha256"] == sha256(lines.encode())


@pytest.mark.parametrize(
    ("old", "new"), [("1,Red", "7,Red"), ("a.png,g1", "a.png,g2"), ("Red shoe", "Red boot"), ("a.png", "c.png")]
)
def test_a_fingerprint_changes_with_ids_groups_titles_and_photos(folder: Path, old: str, new: str) -> None:
    before = fingerprint(read(table(folder, GOOD)).items)["sha256"]
    assert fingerprint(read(table(folder, GOOD.replace(old, new, 1))).items)["sha256"] != before


# -- pairs ----------------------------------------------------------------------------------------------------


def groups(found: LabelledListings) -> set[frozenset[str | None]]:
    members: dict[str | None, set[str | None]] = {}
    for item in found.items:
        members.setdefault(item.group, set()).add(item.title)
    return set(map(frozenset, members.values()))


@pytest.mark.parametrize("name", ["pairs.csv", "pairs.csv.gz"])
def test_pairs_are_joined_to_groups(tmp_path: Path, name: str) -> None:
    found = read_pairs(table(tmp_path, PAIRS + "a,b,1\nc,d,0\nc,b,1\na,e,0\n a ,a,1\n", name), strict=True)
    assert found.problems == []
    assert [(item.row, item.title) for item in found.items] == [(1, "a"), (1, "b"), (2, "c"), (2, "d"), (4, "e")]
    assert groups(found) == {frozenset("abc"), frozenset("d"), frozenset("e")}
    assert len({item.id for item in found.items}) == 5


@pytest.mark.parametrize("labels", [[1, 0], [True, False], ["1", "0"], [1.0, 0.0], ["TRUE", "false"]])
def test_labels_are_numbers_truths_or_text(tmp_path: Path, labels: list[object]) -> None:
    path = parquet(tmp_path, left_title=["a", "b"], right_title=["b", "c"], label=labels)
    assert groups(read_pairs(path, strict=True)) == {frozenset("ab"), frozenset("c")}


def test_titles_written_as_rdf_literals_lose_their_tags(tmp_path: Path) -> None:
    rows = (
        '"""Sepatu lari - Hitam""@id "" Nike Sepatu ""@id-ID","""Running shoe""@en ""Null""",1\n'
        '"a 5"" screen","mail@en.example",0\n"""Null""@en","Hat",0\n'
    )
    found = read_pairs(table(tmp_path, PAIRS + rows), strict=False)
    assert {item.title for item in found.items} == {
        "Sepatu lari - Hitam Nike Sepatu", "Running shoe", 'a 5" screen', "mail@en.example", "Null", "Hat",
    }  # fmt: skip


def test_pairs_have_photos_and_columns_of_other_names(folder: Path) -> None:
    text = "one,photo,other,right_image,same\na,a.png,b,,1\na,b.png,,c.png,1\n"
    columns = PairColumns(left_title="one", right_title="other", left_image="photo", label="same")
    found = read_pairs(table(folder, text), columns, strict=True)
    assert [(item.title, item.photo) for item in found.items] == [
        ("a", PhotoRef(folder / "a.png")),
        ("b", None),
        ("a", PhotoRef(folder / "b.png")),
        (None, PhotoRef(folder / "c.png")),
    ]
    assert len({item.group for item in found.items}) == 2


def test_pairs_of_photos_alone_are_read_from_parquet(folder: Path) -> None:
    a, b, c = PHOTOS.values()
    found = read_pairs(parquet(folder, left_image=[a, a], right_image=[b, c], label=[1, 0]), strict=True)
    assert [item.digest for item in found.items] == [sha256(a), sha256(b), sha256(c)]
    assert found.items[0].group == found.items[1].group != found.items[2].group


def test_groups_of_pairs_reach_over_files_and_do_not_depend_on_their_order(tmp_path: Path) -> None:
    one = table(tmp_path, PAIRS + "a,b,1\nc,d,1\n", "one.csv")
    two = table(tmp_path, PAIRS + "b,c,1\ne,f,0\n", "two.csv")
    found = read_pairs([one, two], strict=True)
    assert groups(found) == {frozenset("abcd"), frozenset("e"), frozenset("f")}
    assert fingerprint(read_pairs([two, one], strict=True).items) == fingerprint(found.items)


def test_contradictions_are_counted(tmp_path: Path) -> None:
    path = table(tmp_path, PAIRS + "a,b,1\nb,c,1\nx,y,0\na,c,0\nc,c,0\n")
    found = read_pairs(path, strict=False)
    assert groups(found) == {frozenset("abc"), frozenset("x"), frozenset("y")}
    ((row, reason),) = reasons(found)
    assert row == 0
    assert reason.startswith("train.csv: 2 pairs are labelled 0")
    assert "the first is row 4" in reason
    with pytest.raises(InvalidListings, match="2 pairs are labelled 0"):
        read_pairs(path, strict=True)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("a,b,2", "row 2: label must be 1 .* or 0, not '2'"),
        ("a,b,", "row 2: label must be 1"),
        (",b,1", "row 2: the left side has neither a title nor a photo"),
        ("a,,0", "row 2: the right side has neither a title nor a photo"),
        ("new,\u200b,1", "row 2: the title is empty"),
        ("a,b", "line 3: the row has not as many cells"),
    ],
)
def test_a_wrong_pair_is_skipped_whole_or_stops_strict_reading(tmp_path: Path, row: str, message: str) -> None:
    path, ticks = table(tmp_path, f"{PAIRS}a,b,1\n{row}\nc,d,1\n"), list[int]()
    found = read_pairs(path, strict=False, tick=ticks.append)
    assert groups(found) == {frozenset("ab"), frozenset("cd")}
    assert sum(ticks) == 3
    assert [number for number, _ in reasons(found)] == [2]
    with pytest.raises(InvalidListings, match=f"train.csv, {message}"):
        read_pairs(path, strict=True)


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("left_title,label\na,1\n", "no column right_title or right_image, only: left_title, label"),
        ("left_title,right_title\na,b\n", "no column label"),
        ("a,b,label\nx,y,1\n", "no column left_title or left_image and no column right_title or right_image"),
        (PAIRS, "no usable pair labelled 1"),
        (PAIRS + "a,b,0\n", "no usable pair labelled 1"),
    ],
)
def test_pairs_of_no_use_are_always_refused(tmp_path: Path, text: str, message: str, strict: bool) -> None:
    with pytest.raises(InvalidListings, match=message):
        read_pairs(table(tmp_path, text), strict=strict)


def test_a_column_of_pairs_that_was_named_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(InvalidListings, match="no column 'sku' for the left_image"):
        read_pairs(table(tmp_path, PAIRS + "a,b,1\n"), PairColumns(left_image="sku"), strict=False)
