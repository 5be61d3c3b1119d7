"""The shipped bundle on the shipped sample: real photos, real titles, real towers."""

from __future__ import annotations

import csv
import io
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image, ImageOps

from app.api.app import create_app
from app.bootstrap import build_matcher
from app.bulk import index_rows
from app.core.product import Embedding, Floats, Prepared
from app.judge import Rule, Verdict
from app.listings import read_table
from app.matcher import Matcher, MatchOptions
from app.model_store import load_bundle
from app.settings import Settings

pytestmark = pytest.mark.real

ROOT = Path(__file__).parent.parent.parent
SAMPLES = ROOT / "samples"
BUNDLE = ROOT / "model_store" / "default"


def rows(name: str) -> list[dict[str, str]]:
    with (SAMPLES / name).open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Matcher]:
    """The default bundle with the sample catalog indexed."""
    settings = Settings(bundle=BUNDLE, data_dir=tmp_path_factory.mktemp("sample") / "data", device="cpu", engine="torch")
    matcher = build_matcher(settings)
    index_rows(matcher, read_table(SAMPLES / "catalog.csv"), "default", lambda done: None)
    yield matcher
    matcher.close()


def cropped(image: Image.Image) -> Image.Image:
    x, y = image.width * 6 // 100, image.height * 6 // 100
    return image.crop((x, y, image.width - x, image.height - y))


def bordered(image: Image.Image) -> Image.Image:
    return ImageOps.expand(image, image.width // 20, "white")


EDITS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "crop": cropped,
    "JPEG 30": lambda image: image,
    "border": bordered,
}


def edited(file: Path, edit: str) -> bytes:
    stream = io.BytesIO()
    EDITS[edit](Image.open(file).convert("RGB")).save(stream, "JPEG", quality=30 if edit == "JPEG 30" else 85)
    return stream.getvalue()


def reworded(title: str) -> str:
    words = title.split()
    random.Random(title).shuffle(words)
    return f"READY STOCK {' '.join(words).lower()} original free shipping"


@pytest.mark.parametrize("edit", EDITS)
def test_an_edited_copy_with_a_reworded_title_finds_its_product_first(sample: Matcher, edit: str) -> None:
    products = rows("catalog.csv")
    asked = [
        sample.read_query(edited(SAMPLES / product["image"].split("|")[0], edit), reworded(product["title"]))
        for product in products
    ]
    embedded = list(zip(asked, sample.embed(asked), strict=True))  # once for both questions
    anything, own = (
        sample.search("default", [sample.query(one, embedding, options) for one, embedding in embedded])
        for options in (MatchOptions(threshold=-1), MatchOptions())
    )
    assert [answer.matches[0].product.id for answer in anything] == [product["id"] for product in products]
    enough = [bool(answer.matches) for answer in own]
    assert sum(enough) >= 0.98 * len(enough)  # all of them, by the card


def test_another_product_of_the_same_kind_is_no_match(sample: Matcher) -> None:
    for product in rows("catalog.csv"):
        if not product["id"].startswith("luma"):
            answer = sample.matches_of(product["id"], MatchOptions())
            assert [match.product.id for match in answer.matches] == []


def test_garments_are_confused_as_rarely_as_the_card_says(sample: Matcher) -> None:
    confused = {
        frozenset((product["id"], match.product.id))
        for product in rows("catalog.csv")
        for match in sample.matches_of(product["id"], MatchOptions()).matches
        if model_of(match.product.id) != model_of(product["id"])  # colours of one model often share their title
    }
    assert len(confused) <= 6  # 5 by the card


def model_of(product_id: str) -> str:
    return product_id.rsplit("-", 1)[0]


VAGUE = [
    ("milk", "Arla Standard Milk 1l"),
    ("shoes", "Nike Air Max 90 running shoes"),
    ("Nike", "Nike Air Max 90 running shoes"),
    ("lipstick", "Maybelline lipstick matte 03"),
    ("nike shoes", "nike shoes men blue"),
    ("iPhone", "iPhone 12 64GB black"),
    ("Gamis", "Gamis nagita"),
    ("masker", "masker kain 3ply"),
]
TELLING = [
    ("WH-1000XM4", "Sony WH-1000XM4 headphones"),
    ("Nike Air Max 90", "Nike Air Max 90 running shoes"),
    ("iPhone 12 64GB", "iPhone 12 64GB black"),
]
EQUAL = [
    ("milk", "Milk"),
    ("leek", "Leeks"),
    ("Hero Hoodie", "hoodie hero"),
    ("Arla Standard Milk 1l", "arla standard milk 1l"),
]


def compared(matcher: Matcher, left: str, right: str) -> Verdict:
    sides = matcher.read_query(None, left), matcher.read_query(None, right)
    return matcher.compare(sides, matcher.embed(sides), Rule())


def test_a_few_words_are_a_match_if_they_name_a_product_and_none_if_they_could_be_anything(sample: Matcher) -> None:
    vague, telling, equal = ([compared(sample, *pair) for pair in pairs] for pairs in (VAGUE, TELLING, EQUAL))
    assert {one.decision for one in [*telling, *equal]} == {"match"}
    assert "match" not in {one.decision for one in vague}
    for one in vague:
        assert "title_says_less" in [reason.code for reason in one.reasons]
        assert one.probability is not None
        assert one.probability < 0.25


def test_capitals_change_nothing(sample: Matcher) -> None:
    titles = [row["title"] for row in rows("catalog.csv")]
    plain, capitals = (
        sample.embed([sample.read_query(None, change(title)) for title in titles]) for change in (str.lower, str.upper)
    )
    for one, other in zip(plain, capitals, strict=True):
        np.testing.assert_allclose(title_of(one), title_of(other), atol=2e-6)


def test_the_vector_of_a_file_is_the_same_however_it_comes_in(sample: Matcher, tmp_path: Path) -> None:
    photo = SAMPLES / "queries" / "q17.jpg"
    table = tmp_path / "one.csv"
    table.write_text(f"id,title,image\nfrom-index,Extension cord,{photo}\n", encoding="utf-8")
    index_rows(sample, read_table(table), "vectors", lambda done: None)
    with TestClient(create_app(keeping_open(sample), Settings(data_dir=tmp_path))) as client:
        sent = {"title": "Extension cord"}
        client.post(
            "/catalog", data={"id": "from-api", "catalog": "vectors", **sent}, files={"image": photo.read_bytes()}
        ).raise_for_status()
        answer = client.post("/match", data={"catalog": "vectors", **sent}, files={"image": photo.read_bytes()}).json()
    assert {(one["id"], one["score"]) for one in answer["matches"]} == {("from-index", 1.0), ("from-api", 1.0)}
    by_index, by_api = (sample.catalog.embedding("vectors", one) for one in ("from-index", "from-api"))
    np.testing.assert_array_equal(by_index.images, by_api.images)
    assert by_index.title is not None
    assert by_api.title is not None
    np.testing.assert_array_equal(by_index.title, by_api.title)


def keeping_open(matcher: Matcher) -> Matcher:
    class Open(Matcher):
        def close(self) -> None:
            """The fixture closes it."""

    return Open(matcher.encoder, matcher.catalog, matcher.judge, matcher.model)


def test_a_vector_hardly_depends_on_its_batch(sample: Matcher) -> None:
    asked = [
        sample.read_query((SAMPLES / row["image"].split("|")[0]).read_bytes(), row["title"])
        for row in rows("catalog.csv")[40:60]
    ]
    together = sample.embed(asked)
    for one, prepared in zip(together, asked, strict=True):
        alone = sample.embed([prepared])[0]
        np.testing.assert_allclose(one.images, alone.images, atol=2e-6)
        np.testing.assert_allclose(title_of(one), title_of(alone), atol=2e-6)


def title_of(embedding: Embedding) -> Floats:
    assert embedding.title is not None
    return embedding.title


def test_photo_only_and_title_only_vectors_are_the_halves(sample: Matcher) -> None:
    row = rows("catalog.csv")[0]
    both = sample.read_query((SAMPLES / row["image"].split("|")[0]).read_bytes(), row["title"])
    whole, photo, title = sample.embed([both, Prepared(both.photos), Prepared((), both.title)])
    np.testing.assert_allclose(whole.images, photo.images, atol=2e-6)
    np.testing.assert_allclose(title_of(whole), title_of(title), atol=2e-6)
    assert (photo.title, len(title.images)) == (None, 0)


def test_the_bundle_is_small_and_in_order() -> None:
    bundle = load_bundle(BUNDLE)
    files = [file for file in BUNDLE.iterdir() if file.is_file()]
    assert sum(file.stat().st_size for file in files) < 100_000_000
    assert max(file.stat().st_size for file in files) < 95_000_000
    assert {file.name for file in files} == {*bundle.manifest.files, "bundle.json"}
