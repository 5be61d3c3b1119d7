"""`evaluate`: the real command, with small real encoders and real tables."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import imagehash
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from typer.testing import CliRunner

from app.__main__ import cli
from app.bootstrap import build_encoder
from app.core.phash import THRESHOLD
from app.errors import AppError, InvalidInput, InvalidListings
from app.labelled.folds import fold_of
from app.labelled.listings import read_labelled
from app.listings import Columns
from app.model_store import load_bundle
from app.settings import Settings
from tests import tiny

FLAT = [
    "f1_at_threshold", "threshold", "f1_best", "best_threshold", "recall_at_1", "recall_at_20", "map_at_r",
    "map_at_20", "roc_auc", "pr_auc", "recall_at_precision_95", "recall_at_precision_99", "listings", "groups",
    "gallery", "roc_auc_hard", "precision_at_threshold", "recall_at_threshold", "false_matches_unmatchable",
    "false_matches_unmatchable_mean", "recall_at_20_self", "map_at_20_self",
]  # fmt: skip
NESTED = ["signals", "bundle", "data", "f1_by_gallery", "f1_curve", "scores", "false_matches", "misses"]
FRUIT = ["apple", "pear", "melon", "plum", "kiwi", "grape", "lemon", "mango"]
SHOPEE = ("posting_id", "image", "image_phash", "title", "label_group")

Row = dict[str, Any]


def picture(seed: int, quality: int = 95) -> bytes:
    cells = np.random.default_rng(seed).integers(0, 255, (7, 7, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(cells).resize((64, 64), Image.Resampling.BICUBIC).save(stream, "JPEG", quality=quality)
    return stream.getvalue()


def shop() -> list[Row]:
    """60 listings: 20 groups of two, whose photos differ by compression and titles by case, some also by a word; 10 groups
    of one; 10 without a group.
    """
    rows: list[Row] = []
    for n in range(60):
        group = n // 2 if n < 40 else n
        data = picture(group, 95 if n % 2 else 60)
        digits = str(imagehash.phash(Image.open(io.BytesIO(data))))
        title = f"{FRUIT[group % 8]} {FRUIT[group // 8]} {group}{' new' * (n % 8 == 1)}"
        title = title.upper() if n % 2 else title  # which is the same to the title tower
        label = f"g{group}" if n < 50 else None
        rows.append({"posting_id": f"p{n}", "image": data, "image_phash": digits, "title": title, "label_group": label})
    return rows


def write_csv(file: Path, rows: Sequence[Mapping[str, Any]], columns: Sequence[str] = SHOPEE) -> Path:
    """Writes a table, and the photos beside it."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, extrasaction="ignore")
    writer.writeheader()
    for row in rows:
        written = dict(row)
        if "image" in columns:
            written["image"] = f"{row['posting_id']}.jpg"
            (file.parent / written["image"]).write_bytes(row["image"])
        writer.writerow(written)
    data = text.getvalue().encode()
    file.write_bytes(gzip.compress(data) if file.suffix == ".gz" else data)
    return file


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Bundles `both`, and `titles`."""
    folder = tmp_path_factory.mktemp("bundles")
    image, title = str(tiny.image_encoder(folder)), str(tiny.title_encoder(folder))
    run("bundle", "create", "--image-encoder", image, "--title-encoder", title, "--out", folder / "both")
    run("bundle", "create", "--title-encoder", title, "--out", folder / "titles")
    return folder


def run(*arguments: str | Path) -> str:
    outcome = CliRunner().invoke(cli, [str(one) for one in arguments], catch_exceptions=False)
    assert outcome.exit_code == 0, outcome.output
    return outcome.output


def measure(folder: Path, *arguments: str | Path) -> dict[str, Any]:
    run("evaluate", *arguments, "--json", folder / "out" / "numbers.json")
    found: dict[str, Any] = json.loads((folder / "out" / "numbers.json").read_text())
    assert set(FLAT + NESTED) <= set(found)
    return found


def matches_in(file: Path) -> dict[str, list[str]]:
    with file.open(newline="") as stream:
        reader = csv.DictReader(stream)
        assert reader.fieldnames == ["posting_id", "matches"]
        return {row["posting_id"]: row["matches"].split(" ") for row in reader}


def brute_force(rows: Sequence[Row], scores: np.ndarray[Any, Any], threshold: float) -> tuple[float, float, list[set[str]]]:
    """F1 and recall@1 of the listings with a group, and what each listing matches."""
    f1, first, found = [], [], []
    for n, row in enumerate(rows):
        matches = {n} | set(np.flatnonzero(scores[n].round(6) >= threshold).tolist())
        found.append({rows[other]["posting_id"] for other in matches})
        if row["label_group"] is None:
            continue
        same = {other for other in range(len(rows)) if rows[other]["label_group"] == row["label_group"]}
        f1.append(2 * len(same & matches) / (len(same) + len(matches)))
        if len(same) > 1:
            others = np.where(np.arange(len(rows)) == n, -np.inf, scores[n].round(6))
            best = np.flatnonzero(others == others.max())
            first.append(np.mean([other in same for other in best]))
    return float(np.mean(f1)), float(np.mean(first)), found


def test_numbers_are_those_of_a_comparison_of_everything(tmp_path: Path, bundles: Path) -> None:
    rows = shop()
    table = write_csv(tmp_path / "shop.csv.gz", rows)
    found = measure(tmp_path, "--listings", table, "--bundle", bundles / "both", "--submission", tmp_path / "matches.csv")
    bundle = load_bundle(bundles / "both")
    encoder, w = build_encoder(Settings(device="cpu"), bundle), bundle.manifest.fusion.weight
    photos = encoder.embed_photos([encoder.read_photo(row["image"])[1] for row in rows]).astype(np.float64)
    titles = encoder.embed_titles([row["title"] for row in rows]).astype(np.float64)
    threshold = bundle.manifest.decision().at("fused", len(rows))
    f1, first, matches = brute_force(rows, w * photos @ photos.T + (1 - w) * titles @ titles.T, threshold)
    assert found["f1_at_threshold"] == pytest.approx(f1, abs=1e-5)
    assert found["recall_at_1"] == pytest.approx(first, abs=1e-5)
    assert found["threshold"] == pytest.approx(threshold)
    assert found["f1_best"] >= found["f1_at_threshold"]
    assert (found["bundle"], found["modality"]) == (bundle.label, "fused")
    assert (found["listings"], found["queries"], found["groups"], found["gallery"]) == (60, 50, 30, 60)
    assert (found["unmatchable"], sorted(found["signals"])) == (10, ["image", "title"])
    submitted = matches_in(tmp_path / "matches.csv")
    assert list(submitted) == [row["posting_id"] for row in rows]
    assert [set(one) for one in submitted.values()] == matches
    assert all(one[0] == name for name, one in submitted.items())


def test_kinds_of_tables_agree(tmp_path: Path, bundles: Path) -> None:
    rows = shop()
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "shop.parquet")
    (tmp_path / "photos").mkdir()
    write_csv(tmp_path / "photos" / "unused.csv", rows)
    lines = [json.dumps({k: f"{r['posting_id']}.jpg" if k == "image" else v for k, v in r.items()}) for r in rows]
    (tmp_path / "shop.jsonl").write_text("\n".join(lines))
    given = ("--bundle", bundles / "both", "--signals", "title,image,phash")
    one = measure(tmp_path, "--listings", tmp_path / "shop.parquet", *given)
    two = measure(tmp_path, "--listings", tmp_path / "shop.jsonl", "--images", tmp_path / "photos", *given)
    assert one["data"]["listings"]["sha256"] == two["data"]["listings"]["sha256"]
    assert {name: one[name] for name in FLAT} == {name: two[name] for name in FLAT}


def test_hashes_are_read_or_computed(tmp_path: Path) -> None:
    rows = shop()
    stored = write_csv(tmp_path / "stored.csv", rows, ("posting_id", "image_phash", "title", "label_group"))
    pixels = write_csv(tmp_path / "pixels.csv", rows, ("posting_id", "image", "title", "label_group"))
    one = measure(tmp_path, "--listings", stored, "--signals", "phash", "--submission", tmp_path / "one.csv")
    two = measure(tmp_path, "--listings", pixels, "--signals", "phash", "--submission", tmp_path / "two.csv")
    assert matches_in(tmp_path / "one.csv") == matches_in(tmp_path / "two.csv")
    assert {name: one[name] for name in FLAT} == {name: two[name] for name in FLAT}
    bits = np.array([[int(row["image_phash"], 16)] for row in rows], np.uint64)
    kernel = np.maximum(0, 1 - np.bitwise_count(bits ^ bits.T).astype(float) / 20)
    f1, first, _ = brute_force(rows, kernel, THRESHOLD)
    assert (one["f1_at_threshold"], one["recall_at_1"]) == (pytest.approx(f1, abs=1e-5), pytest.approx(first, abs=1e-5))
    assert (one["threshold"], one["modality"], one["bundle"]) == (THRESHOLD, "phash", None)


def test_other_names_of_columns_and_titles_alone(tmp_path: Path, bundles: Path) -> None:
    names = {"posting_id": "sku", "title": "name", "label_group": "product", "image_phash": "look"}
    rows = [{names[key]: value for key, value in row.items() if key in names} for row in shop()]
    table = write_csv(tmp_path / "shop.csv", rows, list(names.values()))
    options = [part for key, name in zip(("id", "title", "group", "phash"), names.values(), strict=True)
               for part in (f"--{key}-column", name)]  # fmt: skip
    found = measure(tmp_path, "--listings", table, "--bundle", bundles / "both", *options)
    assert (found["modality"], found["signals"]) == ("title", ["title"])
    assert found["recall_at_1"] >= 0.75
    with_hash = measure(tmp_path, "--listings", table, "--bundle", bundles / "titles", "--signals", "title,phash", *options)
    assert with_hash["signals"] == ["title", "phash"]
    assert max(with_hash["f1_curve"]["threshold"]) > 1.5


def test_distractors_fill_up_the_gallery_and_are_nobodys_match(tmp_path: Path, bundles: Path) -> None:
    rows = shop()
    listings = write_csv(tmp_path / "shop.csv", rows, ("posting_id", "title", "label_group"))
    twins = [{"posting_id": f"x{n}", "title": row["title"]} for n, row in enumerate(rows[:10])]
    extra = write_csv(tmp_path / "extra.csv", [rows[3], *twins], ("posting_id", "title"))
    given = ("--listings", listings, "--bundle", bundles / "titles")
    alone = measure(tmp_path, *given)
    found = measure(tmp_path, *given, "--gallery", extra, "--submission", tmp_path / "matches.csv")
    assert (found["gallery"], found["listings"]) == (70, 60)
    assert found["recall_at_1"] < alone["recall_at_1"]
    assert found["f1_best"] < alone["f1_best"]
    matches = matches_in(tmp_path / "matches.csv")
    assert len(matches) == 60
    assert "x0" in matches["p0"]
    assert "already in the gallery" in " ".join(run("evaluate", *given, "--gallery", extra).split())
    with pytest.raises(InvalidListings, match="already in the gallery"):
        run("evaluate", *given, "--gallery", extra, "--strict")


def test_a_fold_is_that_of_training_and_the_rest_may_fill_up_the_gallery(tmp_path: Path, bundles: Path) -> None:
    table = write_csv(tmp_path / "shop.csv", shop(), ("posting_id", "title", "label_group"))
    items = read_labelled(table, Columns(), strict=False).items
    expected = {item.id for item, fold in zip(items, fold_of(items, 3), strict=True) if fold == 1}
    given = ("--listings", table, "--bundle", bundles / "titles", "--fold", "1/3", "--submission", tmp_path / "m.csv")
    found = measure(tmp_path, *given)
    asked = set(matches_in(tmp_path / "m.csv"))
    assert {name for name in asked if int(name[1:]) < 50} == expected
    assert found["queries"] == len(expected)
    assert found["gallery"] == found["listings"] == len(asked)
    rest = measure(tmp_path, *given, "--rest-as-gallery")
    assert (rest["gallery"], rest["listings"], rest["queries"]) == (60, len(asked), len(expected))
    assert rest["data"]["gallery"]["rest"]


def test_every_rate_is_a_rate_or_null(tmp_path: Path, bundles: Path) -> None:
    rows = [row for n, row in enumerate(shop()) if n < 40]  # every query has a match
    table = write_csv(tmp_path / "shop.csv", rows, ("posting_id", "title", "label_group"))
    found = measure(tmp_path, "--listings", table, "--bundle", bundles / "titles")
    assert found["false_matches_unmatchable"] is None
    assert found["unmatchable"] == 0
    assert all(0 <= found[name] <= 1 for name in FLAT[4:12])
    assert sum(found["scores"]["same"]) == 40
    assert len(found["scores"]["edges"]) == len(found["scores"]["near"]) + 1
    assert {len(column) for column in found["f1_curve"].values()} == {201}


def test_the_table_says_which_numbers_are_optimistic(tmp_path: Path, bundles: Path) -> None:
    table = write_csv(tmp_path / "shop.csv", shop(), ("posting_id", "title", "label_group"))
    output = run("evaluate", "--listings", table, "--bundle", bundles / "titles")
    assert "best on this data: optimistic" in output
    assert "50 queries in 30 groups, gallery 60" in output


@pytest.mark.parametrize(
    ("columns", "options", "error", "message"),
    [
        (SHOPEE, ("--title-column", "name"), InvalidListings, "no column 'name' for the title"),
        (("posting_id", "title"), (), InvalidListings, "no group column.*--group-column"),
        (SHOPEE, ("--signals", "title,sound"), InvalidInput, "title, image, phash"),
        (SHOPEE, ("--signals", "image"), InvalidInput, "needs another bundle"),
        (("posting_id", "image", "label_group"), (), InvalidInput, "the table has none"),
        (SHOPEE, ("--fold", "5/5"), InvalidInput, "0/5"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    tmp_path: Path, bundles: Path, columns: Sequence[str], options: Sequence[str], error: type[AppError], message: str
) -> None:
    table = write_csv(tmp_path / "shop.csv", shop(), columns)
    with pytest.raises(error, match=message):
        run("evaluate", "--listings", table, "--bundle", bundles / "titles", *options, "--json", tmp_path / "x.json")
    assert not (tmp_path / "x.json").exists()


def test_the_rest_needs_a_fold(tmp_path: Path) -> None:
    outcome = CliRunner().invoke(cli, ["evaluate", "--listings", str(tmp_path / "x.csv"), "--rest-as-gallery"])
    assert outcome.exit_code == 2


def test_photos_that_cannot_be_decoded_are_skipped_or_refused(tmp_path: Path, bundles: Path) -> None:
    rows = shop()
    rows[7]["image"] = rows[7]["image"][:-300]  # the header is whole
    table = write_csv(tmp_path / "shop.csv", rows)
    given = ("--listings", table, "--bundle", bundles / "both")
    assert measure(tmp_path, *given)["listings"] == 59
    with pytest.raises(InvalidListings, match="p7"):
        run("evaluate", *given, "--strict")
