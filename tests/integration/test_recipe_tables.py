"""The tables of the default recipe: what is held out is held out of everything."""

from __future__ import annotations

import csv
import gzip
import importlib.util
import io
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests.conftest import ROOT

Row = dict[str, Any]
COLOURS = ("red", "blue", "green")


@pytest.fixture(scope="module")
def recipe() -> ModuleType:
    spec = importlib.util.spec_from_file_location("default_tables", ROOT / "docs" / "recipes" / "default_tables.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def photo(number: int) -> bytes:
    stream = io.BytesIO()
    pixels = np.random.default_rng(number).integers(0, 255, (48, 48, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(stream, "JPEG")
    return stream.getvalue()


def shops() -> list[Row]:
    """Garments of three colours each, the sample's backpack among them, and a shop that is never trained on."""
    rows: list[Row] = []
    for model in range(40):
        for colour in COLOURS:
            name = f"Fusion Backpack {colour}" if model == 0 else f"Garment{model} {colour}"
            rows += [
                {
                    "id": f"luma:{model}-{colour}-{view}", "group": f"luma:{model}-{colour}", "source": "magento-luma",
                    "view": view, "title": name, "family": f"luma:{model}",
                }
                for view in ("main", "back")
            ]  # fmt: skip
    rows += [
        {"id": f"oc:{n}", "group": f"oc:{n}", "source": "opencart-demo", "view": "main", "title": f"Phone {n}", "family": ""}
        for n in range(8)
    ]
    return [{**row, "image": photo(n)} for n, row in enumerate(rows)]


def groceries() -> list[Row]:
    """Photos of one product may share an id."""
    rows = [
        {"id": f"{name}-{view}", "group": name, "title": name.replace("-", " "), "view": view}
        for name in ["Asparagus", *(f"Fruit{n}" for n in range(30))]
        for view in ("iconic", *["natural"] * 20)
    ]
    return [{**row, "image": photo(1000 + n)} for n, row in enumerate(rows)]


def fashion() -> list[Row]:
    return [{"id": n, "title": f"Brand{n % 4500} shirt", "image": photo(3000 + n % 50)} for n in range(9000)]


def write_annotations(folder: Path) -> None:
    for language in ("en", "id", "vi", "zh"):
        (folder / language).mkdir(parents=True)
        names = {chr(0x1F400 + n): {"tts": [f"{language} thing {n}"]} for n in range(20)}
        told = {"annotations": {"annotations": {**names, "!": {"tts": [f"{language} mark"]}}}}
        (folder / language / "annotations.json").write_text(json.dumps(told), "utf-8")


@pytest.fixture(scope="module")
def tables(recipe: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = tmp_path_factory.mktemp("data")
    for name, rows in (("shops", shops()), ("grocery", groceries()), ("fashion", fashion())):
        pq.write_table(pa.Table.from_pylist(rows), data / f"{name}.parquet")
    (data / "title-pairs").mkdir()
    with gzip.open(data / "title-pairs" / "wdc-toys-train.csv.gz", "wt", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["left_title", "right_title", "label"])
        writer.writerows([f"toy {n}", f"the toy {n}", 1] for n in range(200))
    write_annotations(data / "cldr" / "annotations")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recipe, "LANGUAGES", {"id": 1.0, "vi": 1.0, "zh": 1.0})
        patch.setattr(recipe, "COMPOSED", 50)
        patch.setattr(sys, "argv", ["x", str(data), str(data / "out"), "--annotations", str(data / "cldr")])
        recipe.main()
    return data / "out"


def read(folder: Path, name: str) -> list[Row]:
    rows: list[Row] = pq.read_table(folder / f"{name}.parquet").to_pylist()
    return rows


def test_no_product_and_no_family_is_in_two_tables(tables: Path) -> None:
    seen: dict[str, str] = {}
    for name in ("photos", "calibration", "heldout"):
        rows = read(tables, name)
        assert len({row["id"] for row in rows}) == len(rows) > 100
        for row in rows:
            kind, _, number = row["group"].rpartition("-")
            family = f"fashion {number}" if kind in ("fashion", "lone", "copy") else row["group"]
            family = family.rpartition("-")[0] if family.startswith("luma:") else family
            assert seen.setdefault(family, name) == name, family


def test_the_sample_and_one_shop_are_held_out(tables: Path) -> None:
    for name in ("photos", "calibration"):
        groups = {row["group"] for row in read(tables, name)}
        assert not [group for group in groups if group.startswith(("oc:", "luma:0-")) or group == "Asparagus"]
    held = {row["group"] for row in read(tables, "heldout")}
    assert {"oc:0", "oc:7", "Asparagus", *(f"luma:0-{colour}" for colour in COLOURS)} <= held


def test_few_phone_photos_of_a_product_are_fitted_to(recipe: ModuleType, tables: Path) -> None:
    asparagus = [row for row in read(tables, "heldout") if row["group"] == "Asparagus"]
    assert len(asparagus) == 1 + recipe.PHONE_PHOTOS
    trained = [row for row in read(tables, "photos") if row["group"].startswith("Fruit")]
    assert len(trained) % 21 == 0


def test_titles_that_train_are_in_no_other_table(tables: Path) -> None:
    with (tables / "titles.csv").open(encoding="utf-8") as stream:
        known = {row["title"] for row in csv.DictReader(stream)}
    assert len(known) > 2000
    for name in ("calibration", "heldout"):
        assert not [row for row in read(tables, name) if row["group"].startswith("lone-") and row["title"] in known]
        assert [row for row in read(tables, name) if row["source"] == "wdc"]


def test_things_have_names_in_several_languages(tables: Path) -> None:
    with (tables / "parallel.csv").open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    first = {row["title"] for row in rows if row["group"] == "thing-3"}
    assert {title.split()[0] for title in first} == {"en", "id", "vi", "zh"}
    assert len({title.split()[-1] for title in first}) == 1  # the same thing
    assert not [row for row in rows if "mark" in row["title"]]
