from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from app.core.decision import Thresholds
from app.core.fusion import HAS_TITLE, Fusion
from app.core.spec import EncoderSpec, FusionSpec, ImageSpec, NgramSpec, Preprocessing, TitleSpec
from app.evaluation.evaluate import About, evaluate
from app.evaluation.features import Features
from app.evaluation.results import Evaluation, Pair
from app.evaluation.subjects import subjects_of
from app.labelled.listings import Item, fingerprint
from app.listings import PhotoRef
from app.training.card.card import CardFacts, write_card
from app.training.card.sheets import BOX, PAIRS, PAIRS_OF_GROUPS, TILE, printable, varied, write_sheet
from app.training.card.tables import rate, table
from app.training.config import TrainingConfig
from tests.fakes import photo

DIM = 12
THRESHOLDS = Thresholds({"fused": [(1000, 0.6)], "image": [(1000, 0.8)], "title": [(100, 0.6), (1000, 0.7)]})
OF_RESULTS = {"f1.png", "scores.png", "precision-recall.png", "gallery.png", "map.png", "false-matches.png", "misses.png"}
STRANGE = (
    "กระเป๋าผ้า ลดราคา",
    "保温杯不锈钢大容量便携水杯户外运动水壶学生男女通用",
    "👍🏽 Tas 👩‍👩‍👧 murah $5 $10",
    "_private \x00 \ud800 x_{1}",
    "a" * 300,
    "| <b>pipe</b> |",
)
SPEC = EncoderSpec(
    image=ImageSpec(
        architecture="tf_efficientnet_lite0", weights="image.safetensors", pooling="gem", features=1280, dim=512,
        projection=True, colours=True,
        preprocessing=Preprocessing(size=224, framing="pad", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
    ),
    title=TitleSpec(
        config="c.json", tokenizer="t.json", weights="t.safetensors", prefix="query: ", max_tokens=64, pad_id=1,
        features=384, dim=896, projection=True, ngrams=NgramSpec(share=0.25),
    ),
    fusion=FusionSpec(weight=0.4),
)  # fmt: skip


def listings(groups: int, titles: Sequence[str] = (), photos: Sequence[bytes] = ()) -> list[Item]:
    """Two of each group, with titles and photos in turn."""
    return [
        Item(
            n + 1, f"id {n}", f"group {n // 2}", titles[n % len(titles)] if titles else f"title {n}",
            PhotoRef(photos[n % len(photos)]) if photos else None,
        )
        for n in range(2 * groups)
    ]  # fmt: skip


def measured(items: Sequence[Item], distractors: Sequence[Item] = ()) -> Evaluation:
    """Noisy titles' vectors around a direction of each group."""
    rng = np.random.default_rng(0)
    total = len(items) + len(distractors)
    _, number = np.unique([item.group for item in items], return_inverse=True)
    centres = rng.normal(size=(total + 1, DIM))
    rows = centres[[*number, *range(len(items), total)]] + 0.5 * rng.normal(size=(total, DIM))
    vectors = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    flags, hashes = np.full(total, HAS_TITLE, np.uint8), np.zeros(total, np.uint64)
    features = Features(Fusion(0, 0, DIM), vectors, flags, hashes, np.zeros(total, np.bool_))
    subjects = subjects_of(items, distractors, np.arange(total))
    return evaluate(features, subjects, THRESHOLDS, About("small@0", {}, ("title",)))


def facts(items: Sequence[Item] = (), **changes: Any) -> CardFacts:
    data = {"training": fingerprint(items), "test": {**fingerprint(items), "fold": "0/5"}} if items else {}
    whole = CardFacts(
        "small", SPEC, TrainingConfig(epochs=3, margin=0.4, precision="bf16"),
        {"title_encoder": "some-name", "image_encoder": None}, data, THRESHOLDS, "python -m app train --out small",
    )  # fmt: skip
    return replace(whole, **changes)


def history(updates: int) -> list[dict[str, float]]:
    return [
        {
            "update": n, "epoch": 3 * n / updates, "loss": 2.0, "loss_fused": 9 / n, "loss_title": 8 / n,
            "learning_rate": 1e-5, "head_rate": 1e-4, "margin": 0.1,
        }
        for n in range(1, updates + 1)
    ]  # fmt: skip


def by_id(items: Sequence[Item]) -> dict[str, Item]:
    return {item.id: item for item in items}


def checked(folder: Path, names: list[str]) -> str:
    """Returns the card, after what must hold of every one."""
    text = (folder / "README.md").read_text("utf-8")
    assert names[0] == "README.md"
    assert {file.name for file in folder.iterdir()} == set(names)
    assert re.findall(r"!\[[^\]]*\]\(([^)]*)\)", text) == names[1:]
    assert not re.search(r"\b(nan|NaN|inf|None)\b", text)
    for name in names[1:]:
        with Image.open(folder / name) as image:
            image.load()
            assert image.format == "PNG"
            assert 300 <= image.width <= 1200
            assert 150 <= image.height <= 1200
    assert sum((folder / name).stat().st_size for name in names) < 1_500_000
    return text


# -- whole cards ----------------------------------------------------------------------------------------------


def test_a_card_shows_everything_that_there_is(tmp_path: Path) -> None:
    items = listings(200)
    found = measured(items)
    names = write_card(tmp_path, facts(items), history(700), found, by_id(items))
    assert set(names[1:]) == OF_RESULTS | {"loss.png"}
    text = checked(tmp_path, names)
    assert f"**F1 {found.f1_at_threshold:.3f}**" in text
    assert f"| the best one: optimistic | {found.best_threshold:.3f} | {found.f1_best:.3f} |" in text
    assert "| `epochs` | 3 | 15 |" in text
    assert "| `margin` | 0.4 | 0.5 |" in text
    assert "`batch_size`" not in text
    assert "w = 0.400 for the photo" in text
    assert "share 0.250 of the title's cosine" in text
    assert "1,408 dimensions" in text
    assert "title encoder `some-name`" in text
    assert "```console\npython -m app train --out small\n```" in text
    assert f"| test | 0/5 | 400 | 200 | 200 | 400 | 0 | `{str(fingerprint(items)['sha256'])[:16]}` |" in text
    assert "Nothing was kept for: calibration." in text
    assert "| title | 1,000 | 0.700 |" in text
    assert "A cosine is no probability" in text
    assert "Every query had its product in the gallery" in text


def test_plots_are_the_same_for_the_same_data(tmp_path: Path) -> None:
    items = listings(30)
    found = measured(items)
    folders = [tmp_path / name for name in ("one", "two")]
    for folder in folders:
        folder.mkdir()
        names = write_card(folder, facts(items), history(40), found, by_id(items))
    for name in names:
        assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes()


def test_a_card_without_a_run(tmp_path: Path) -> None:
    items = listings(30)
    names = write_card(tmp_path, facts(items, config=None, command=None), [], measured(items), by_id(items))
    text = checked(tmp_path, names)
    assert "loss.png" not in names
    assert "no history of a training run" in text
    assert "not trained for this bundle" in text
    assert "was not recorded" in text


def test_a_card_without_a_test(tmp_path: Path) -> None:
    names = write_card(tmp_path, facts(), history(5), None, {})
    text = checked(tmp_path, names)
    assert names == ["README.md", "loss.png"]
    assert "**Not measured**" in text
    assert "--test-fold" in text
    assert "What data was used was not recorded." in text


def test_a_card_with_nothing_at_all(tmp_path: Path) -> None:
    spec = EncoderSpec(image=None, title=None, fusion=FusionSpec(weight=0))
    names = write_card(tmp_path, facts(spec=spec, thresholds=Thresholds({}), origin={}), [{"update": 1.0}], None, {})
    text = checked(tmp_path, names)
    assert names == ["README.md"]
    assert "calibrate the bundle before it is used" in text
    assert text.count("not read") == 2


def test_three_listings(tmp_path: Path) -> None:
    items = [*listings(1), Item(3, "id 2", "group 1", "alone", None)]
    names = write_card(tmp_path, facts(items), history(1), measured(items), by_id(items))
    text = checked(tmp_path, names)
    assert {"f1.png", "scores.png"} <= set(names)
    assert not {"map.png", "gallery.png"} & set(names)
    assert "Queries without their product in the gallery: 1." in text


def test_nobody_has_a_match(tmp_path: Path) -> None:
    items = [Item(n, f"id {n}", f"group {n}", f"title {n}", None) for n in range(4)]
    found = replace(measured(items), false_matches=[], misses=[])
    names = write_card(tmp_path, facts(items), [], found, by_id(items))
    text = checked(tmp_path, names)
    assert "| recall@1 | - |" in text
    assert "There was no false match" in text
    assert "No pair of one group was missed." in text


def test_equal_vectors_no_threshold_and_cut_lists(tmp_path: Path) -> None:
    items = listings(30)
    found = measured(items)
    assert found.sample is not None
    same = replace(found.sample, vectors=np.ones_like(found.sample.vectors))
    odd = replace(found, sample=same, threshold=math.inf, exact=False, exact_from=math.inf, f1_by_gallery=[])
    names = write_card(tmp_path, facts(items), [], odd, by_id(items))
    text = checked(tmp_path, names)
    assert not {"map.png", "precision-recall.png", "gallery.png"} & set(names)
    assert "is not counted" in text
    assert "This was not measured." in text


def test_distractors_and_listings_that_nobody_knows(tmp_path: Path) -> None:
    items = listings(40)
    others = [Item(n, f"other {n}", None, None, None) for n in range(400)]
    names = write_card(tmp_path, facts(items), [], measured(items, others), {})
    assert set(names[1:]) == OF_RESULTS
    checked(tmp_path, names)


def test_strange_titles_and_photos(tmp_path: Path) -> None:
    photos = (photo((200, 30, 30), (900, 100), "JPEG"), b"no photo", photo((0, 90, 0), (20, 700)))
    items = listings(25, STRANGE, photos)
    odd = facts(items, command="echo ```\n| x |", origin={"image_encoder": "a|b"})
    names = write_card(tmp_path, odd, history(30), measured(items), by_id(items))
    text = checked(tmp_path, names)
    assert "~~~~console\necho ```" in text


def test_losses_that_are_not_numbers(tmp_path: Path) -> None:
    records = history(50)
    records[3]["loss_fused"] = math.nan
    for record in records:
        record["loss_distil_title"] = math.nan
    assert "loss.png" in checked(tmp_path, write_card(tmp_path, facts(), records, None, {}))


# -- sheets ---------------------------------------------------------------------------------------------------


def sheet(folder: Path, items: Sequence[Item], pairs: Sequence[tuple[int, int]]) -> Image.Image:
    shown = [Pair(f"id {one}", f"id {other}", 0.5) for one, other in pairs]
    write_sheet(folder / "sheet.png", "Pairs", shown, by_id(items))
    with Image.open(folder / "sheet.png") as image:
        return image.convert("RGB")


def test_photos_stand_side_by_side(tmp_path: Path) -> None:
    red, green = (200, 20, 20), (20, 160, 20)
    items = listings(1, photos=(photo(red), photo(green)))
    image = sheet(tmp_path, items, [(0, 1)])
    colours = [image.getpixel((20 + TILE // 2 + side * (TILE + 10), 50 + 24 + TILE // 2)) for side in (0, 1)]
    assert np.abs(np.array(colours) - [red, green]).max() < 8


def test_a_broken_or_missing_photo_leaves_a_tile_with_words(tmp_path: Path) -> None:
    missing = Item(3, "id 2", "g", "missing", PhotoRef(tmp_path / "no.jpg"))
    items = [
        *listings(1, photos=(b"broken", photo((255, 255, 255)))),
        replace(missing, group="a group with a long name" * 3),
    ]
    image = np.asarray(sheet(tmp_path, items, [(0, 1), (2, 7)]))
    tiles = [image[74 : 74 + TILE, left : left + TILE] for left in (20, 166, 322, 468)]
    dark = [bool((tile < 100).any()) for tile in tiles]
    assert dark == [True, False, True, True]


def test_sheets_grow_with_their_pairs_up_to_a_limit(tmp_path: Path) -> None:
    items = listings(20)
    heights = [sheet(tmp_path, items, [(n, n + 1) for n in range(count)]).height for count in (1, 3, 4, PAIRS, 30)]
    assert heights[0] == heights[1] < heights[2] < heights[3] == heights[4]


def test_one_group_does_not_fill_a_sheet() -> None:
    items = by_id(listings(20))
    crowd = [Pair("id 0", "id 1", 0.1 + n / 100) for n in range(PAIRS)]
    others = [Pair(f"id {2 * n}", f"id {2 * n + 1}", 0.9) for n in range(1, 6)]
    shown = varied([*crowd, *others], items)
    assert shown == [*crowd[: PAIRS - len(others)], *others]
    many = [Pair(f"id {2 * n}", f"id {2 * n + 1}", 0.9) for n in range(1, 20)]
    assert varied([*crowd, *many], items) == [*crowd[:PAIRS_OF_GROUPS], *many[: PAIRS - PAIRS_OF_GROUPS]]
    assert varied(crowd, {}) == crowd


@pytest.mark.parametrize(
    ("text", "drawn"),
    [
        ("Tas  wanita\n", "Tas wanita"),
        ("Größe Ωμέγα Привет", "Größe Ωμέγα Привет"),
        ("保温 cup", f"{BOX}{BOX} cup"),
        ("ก้า", f"{BOX}{BOX}"),
        ("a\x00\u200d\ufeffb", "ab"),
        ("x\ud800", f"x{BOX}"),
    ],
)
def test_what_the_font_lacks_is_a_box(text: str, drawn: str) -> None:
    assert printable(text) == drawn


# -- numbers --------------------------------------------------------------------------------------------------


def test_numbers() -> None:
    assert [rate(value) for value in (0.12345, -0.0001, math.nan, math.inf, None, 1)] == [
        "0.123", "0.000", "-", "-", "-", "1.000",
    ]  # fmt: skip


def test_columns_of_numbers_are_aligned_right() -> None:
    assert table(("a", "b", "c"), [("1", "1,000", "x"), ("2", "-", "3")]).splitlines()[1] == "| --- | ---: | --- |"
