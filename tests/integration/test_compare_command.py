"""`python -m app compare`: a table of pairs, judged row by row."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from app.__main__ import cli
from app.errors import InvalidListings
from tests import tiny
from tests.fakes import photo
from tests.integration.labelled import Titles, rows_of
from tests.training import run

COLUMNS = [
    "left_title", "right_title", "row", "score", "image_score", "title_score", "probability", "decision", "reasons", "error"
]  # fmt: skip


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory, titles: Titles) -> Path:
    """A bundle with both towers and no pair model."""
    folder = tmp_path_factory.mktemp("both")
    towers = ("--image-encoder", tiny.image_encoder(folder), "--title-encoder", titles.encoder)
    run("bundle", "create", *towers, "--image-size", "32", "--out", folder / "both")
    return folder / "both"


def table(folder: Path, *rows: dict[str, str]) -> Path:
    """Writes `pairs.csv`."""
    with (folder / "pairs.csv").open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, ("left_title", "right_title", "left_image", "right_image"))
        writer.writeheader()
        writer.writerows(rows)
    return folder / "pairs.csv"


def test_titles_are_judged_by_the_pair_model(titles: Titles, tmp_path: Path) -> None:
    rows = [
        {"left_title": "apple melon 500 g", "right_title": "melon apple 500 g"},
        {"left_title": "apple melon 500 g", "right_title": "leek plum 2 kg"},
        {"left_title": '"apple melon"@en', "right_title": "apple melon"},
    ]
    said = run("compare", table(tmp_path, *rows), "--bundle", titles.pairs, "--out", tmp_path / "new" / "out.csv")
    found = rows_of(tmp_path / "new" / "out.csv")
    assert list(found[0]) == COLUMNS
    assert [row["row"] for row in found] == ["1", "2", "3"]
    assert "3 pairs" in said
    for row in found:
        assert 0 <= float(row["probability"]) <= 1
        assert row["decision"] in ("match", "review", "no-match")
        assert row["reasons"]
        assert (row["image_score"], row["error"]) == ("", "")
        assert -1 <= float(row["score"]) == float(row["title_score"]) <= 1
    assert float(found[0]["probability"]) > float(found[1]["probability"])
    assert "500 g" in found[0]["reasons"]
    assert found[2]["left_title"] == "apple melon"
    assert float(found[2]["score"]) == 1


def test_a_row_that_cannot_be_read_says_why_and_the_rest_goes_on(both: Path, tmp_path: Path) -> None:
    (tmp_path / "good.png").write_bytes(photo((200, 10, 10)))
    (tmp_path / "bad.png").write_bytes(b"no photo")
    rows = [
        {"left_title": "apple", "right_title": "apple", "left_image": "good.png", "right_image": "good.png"},
        {"left_title": "apple", "right_title": ""},
        {"left_title": "", "right_title": "apple"},
        {"left_title": "apple", "right_title": "apple", "left_image": "missing.png", "right_image": "good.png"},
        {"left_title": "apple", "right_title": "apple", "right_image": "bad.png"},
        {"left_title": "a" * 100_000, "right_title": "apple"},
        {"left_image": "good.png", "right_image": "good.png"},
    ]
    said = run("compare", table(tmp_path, *rows), "--bundle", both, "--out", tmp_path / "out.csv")
    found = rows_of(tmp_path / "out.csv")
    assert [row["row"] for row in found] == [str(n) for n in range(1, 8)]
    assert [bool(row["error"]) for row in found] == [False, True, True, True, True, True, False]
    assert all((row["decision"] == "") == bool(row["error"]) for row in found)
    assert found[1]["error"].startswith("the right side: ")
    assert found[2]["error"].startswith("the left side: ")
    assert found[4]["error"].startswith("right_image: ")
    assert found[5]["error"].startswith("left_title: ")
    assert "missing.png" in found[3]["error"]
    assert "not read: 5" in said
    assert [float(found[0][name]) for name in ("score", "image_score", "title_score")] == [1, 1, 1]
    assert (found[6]["title_score"], float(found[6]["image_score"])) == ("", 1)
    assert found[0]["probability"] == ""  # no pair model: the threshold decides
    assert found[0]["decision"] == "match"


def test_photos_may_lie_elsewhere_and_rows_come_as_json_too(both: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").write_bytes(photo((10, 10, 200)))
    pairs = tmp_path / "pairs.jsonl"
    good = {"left_title": "apple", "right_title": None, "left_image": "a.png", "right_image": "a.png"}
    pairs.write_text(json.dumps(good) + "\n{\n" + json.dumps(good) + "\n", "utf-8")
    run("compare", pairs, "--bundle", both, "--images", tmp_path / "photos", "--out", tmp_path / "out.csv")
    found = rows_of(tmp_path / "out.csv")
    assert [bool(row["error"]) for row in found] == [False, True, False]
    assert found[0] | {"row": ""} == found[2] | {"row": ""}


def test_many_rows_keep_their_order(titles: Titles, tmp_path: Path) -> None:
    rows = [{"left_title": f"apple {n}", "right_title": "" if n % 7 == 3 else f"melon {n}"} for n in range(150)]
    run("compare", table(tmp_path, *rows), "--bundle", titles.plain, "--out", tmp_path / "out.csv")
    found = rows_of(tmp_path / "out.csv")
    assert [row["row"] for row in found] == [str(n) for n in range(1, 151)]
    assert [bool(row["error"]) for row in found] == [n % 7 == 3 for n in range(150)]
    assert all(row["left_title"] == f"apple {n}" for n, row in enumerate(found) if not row["error"])


def test_a_table_without_pairs_is_refused(titles: Titles, tmp_path: Path) -> None:
    other = tmp_path / "other.csv"
    other.write_text("id,title\na,apple\n", "utf-8")
    arguments = ["compare", str(other), "--bundle", str(titles.plain), "--out", str(tmp_path / "out.csv")]
    outcome = CliRunner().invoke(cli, arguments)
    assert isinstance(outcome.exception, InvalidListings)
    assert "left_title" in str(outcome.exception)
    assert not (tmp_path / "out.csv").exists()
