"""`python -m app group` on photos: the shipped bundle, and pictures that were edited or have other colours."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
from PIL import Image, ImageDraw, ImageOps

from tests.integration.labelled import rows_of
from tests.training import run
from tests.unit.photos import scene

pytestmark = pytest.mark.real

ROOT = Path(__file__).parent.parent.parent
BUNDLE, SAMPLES = ROOT / "model_store" / "default", ROOT / "samples" / "catalog"
SIBLINGS = "the same picture in other colours"
ALIGNED = "the photos lie over each other"


def print_of(colour: tuple[int, int, int]) -> Image.Image:
    image = scene(1)
    ImageDraw.Draw(image).rectangle((90, 70, 200, 170), fill=colour)
    return image


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A print, a part of it on a wide border, its sibling in another colour, and two vegetables; no titles."""
    folder = tmp_path_factory.mktemp("photos")
    blue = print_of((40, 70, 190))
    pictures = {
        "blue": blue,
        "edited": ImageOps.expand(blue.crop((40, 20, 280, 225)).rotate(12, fillcolor="white"), 70, (250, 240, 60)),
        "red": print_of((190, 60, 40)),
        **{name: Image.open(SAMPLES / f"grocery-{name}-1.jpg") for name in ("asparagus", "beef-tomato")},
    }
    with (folder / "listings.csv").open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["id", "image"])
        for name, image in pictures.items():
            image.save(folder / f"{name}.png")
            writer.writerow([name, f"{name}.png"])
    return folder / "listings.csv"


def grouped(out: Path, *options: str | Path) -> dict[str, dict[str, str]]:
    run("group", "--bundle", BUNDLE, "--out", out, "--format", "groups", *options)
    return {row["id"]: row for row in rows_of(out)}


def told(rows: dict[str, dict[str, str]]) -> list[str]:
    return [name for name, row in rows.items() if ALIGNED in row["reasons"] or SIBLINGS in row["reasons"]]


def test_photos_are_laid_over_each_other(table: Path, tmp_path: Path) -> None:
    found = grouped(tmp_path / "with.csv", "--listings", table)
    without = grouped(tmp_path / "without.csv", "--listings", table, "--without", "geometry")
    assert told(without) == []
    assert found["blue"]["group"] == found["edited"]["group"] != found["red"]["group"]
    assert without["blue"]["group"] == without["red"]["group"]
    assert ALIGNED in found["edited"]["reasons"]
    assert f"not blue: {SIBLINGS}" in found["red"]["reasons"]


def test_so_are_those_of_a_catalog(table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAMESKU_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("SAMESKU_BUNDLE", str(BUNDLE))
    run("index", table, "--catalog", "prints")
    catalog = grouped(tmp_path / "catalog.csv", "--catalog", "prints")
    listings = grouped(tmp_path / "table.csv", "--listings", table, "--signals", "image,phash")
    assert catalog == listings
    assert told(catalog) == ["blue", "edited", "red"]
