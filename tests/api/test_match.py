"""POST /match and GET /catalog/{id}/matches: what is answered, and what every field says."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from tests.api.calls import BLUE, GREEN, RED, ask, found, put, without_time
from tests.fakes import FINGERPRINT, photo

ANSWER_FIELDS = {
    "matches",
    "total",
    "truncated",
    "exact",
    "threshold",
    "partial_thresholds",
    "rule",
    "bound",
    "gallery",
    "catalog",
    "model",
    "took_ms",
}
MATCH_FIELDS = {
    "id", "score", "image_score", "title_score", "probability", "decision", "reasons", "title", "attributes", "image_url"
}  # fmt: skip


@pytest.fixture
def mixed(client: TestClient) -> TestClient:
    """Products with both halves, with one, and with several photos."""
    put(client, "both", "aab", RED, attributes='{"brand": "Acme", "size": 1}')
    put(client, "photo", None, RED, attributes='{"brand": "Apex", "size": 1}')
    put(client, "title", "aab", attributes='{"brand": "Acme", "size": 2}')
    put(client, "album", "cde", GREEN, BLUE)
    return client


def test_an_answer_has_exactly_the_promised_fields(mixed: TestClient) -> None:
    answer = ask(mixed, "aab", RED).json()
    assert set(answer) == ANSWER_FIELDS
    assert all(set(match) == MATCH_FIELDS for match in answer["matches"])
    assert answer["model"] == f"fake@{FINGERPRINT}"
    assert (answer["catalog"], answer["gallery"], answer["exact"]) == ("default", 4, True)
    assert answer["took_ms"] >= 0
    assert answer["matches"][0] == {
        "id": "both", "score": 1.0, "image_score": 1.0, "title_score": 1.0, "title": "aab",
        "probability": None, "decision": None, "reasons": [],
        "attributes": {"brand": "Acme", "size": 1}, "image_url": "/catalog/both/image",
    }  # fmt: skip


def test_scores_are_those_that_can_be_computed_by_hand(mixed: TestClient) -> None:
    scores = {m["id"]: (m["score"], m["title_score"]) for m in ask(mixed, "abb", None, threshold=-1).json()["matches"]}
    assert scores == {"both": (0.8, 0.8), "title": (0.8, 0.8), "album": (0.0, 0.0)}  # (2,1) and (1,2) over 5
    fused = ask(mixed, "abb", RED, threshold=0).json()["matches"]
    assert {m["id"]: m["score"] for m in fused}["both"] == round(0.36 * 1 + 0.64 * 0.8, 6)


def test_each_side_is_compared_by_what_both_have(mixed: TestClient) -> None:
    assert found(ask(mixed, "aab", RED)) == ["both", "photo", "title"]
    assert found(ask(mixed, None, RED)) == ["both", "photo"]
    assert found(ask(mixed, "aab", None)) == ["both", "title"]
    by_id = {match["id"]: match for match in ask(mixed, "aab", RED).json()["matches"]}
    assert by_id["photo"]["title_score"] is None
    assert by_id["photo"]["title"] is None
    assert by_id["title"]["image_score"] is None
    assert by_id["title"]["image_url"] is None


def test_nothing_in_common_is_never_a_match(client: TestClient) -> None:
    put(client, "photo", None, RED)
    assert found(ask(client, "red", None, threshold=-1)) == []


def test_every_photo_of_a_product_finds_it(mixed: TestClient) -> None:
    for image in (GREEN, BLUE):
        assert found(ask(mixed, "cde", image)) == ["album"]
        assert ask(mixed, None, image).json()["matches"][0]["score"] == 1.0


@pytest.mark.parametrize(("title", "image", "threshold"), [("a", RED, 0.9), (None, RED, 0.95), ("a", None, 0.8)])
def test_the_threshold_is_that_of_what_the_query_has(
    mixed: TestClient, title: str | None, image: bytes | None, threshold: float
) -> None:
    assert ask(mixed, title, image).json()["threshold"] == threshold


def test_a_threshold_that_is_sent_applies_and_is_inclusive(mixed: TestClient) -> None:
    assert found(ask(mixed, "abb", None, threshold=0.8)) == ["both", "title"]
    assert found(ask(mixed, "abb", None, threshold=0.800001)) == []
    assert ask(mixed, "abb", None, threshold=0.8).json()["threshold"] == 0.8
    assert len(found(ask(mixed, "abb", RED, threshold=-1))) == 4
    assert found(ask(mixed, "aab", None, threshold=1)) == ["both", "title"]


def test_limit_cuts_and_total_still_counts(client: TestClient) -> None:
    for n in range(25):
        put(client, f"p{n}", "same")
    cut = ask(client, "same", limit=3).json()
    assert [match["id"] for match in cut["matches"]] == ["p0", "p1", "p2"]
    assert (cut["total"], cut["truncated"]) == (25, True)
    default = ask(client, "same").json()
    assert (len(default["matches"]), default["total"], default["truncated"]) == (20, 25, True)
    whole = ask(client, "same", limit=25).json()
    assert (len(whole["matches"]), whole["truncated"]) == (25, False)


def test_a_filter_lets_through_only_what_agrees(mixed: TestClient) -> None:
    def filtered(**where: object) -> list[str]:
        return found(ask(mixed, "aab", RED, filter=json.dumps(where)))

    assert filtered(brand="Acme") == ["both", "title"]
    assert filtered(brand=["Acme", "Apex"], size=1.0) == ["both", "photo"]
    assert filtered(brand="acme") == filtered(size="1") == filtered(colour="red") == filtered(size=True) == []
    assert ask(mixed, "aab", RED, filter='{"brand": "Acme"}').json()["gallery"] == 4
    assert filtered() == ["both", "photo", "title"]


def test_an_empty_catalog_answers_with_nothing(client: TestClient) -> None:
    answer = ask(client, "anything", RED).json()
    assert (answer["matches"], answer["total"], answer["gallery"], answer["truncated"]) == ([], 0, 0, False)


def test_a_query_leaves_nothing_behind(mixed: TestClient) -> None:
    before = mixed.get("/catalog").json()
    ask(mixed, "new thing", photo((1, 2, 3)))
    assert mixed.get("/catalog").json() == before


def test_titles_are_cleaned_alike_when_they_are_stored_and_asked(client: TestClient) -> None:
    put(client, "p", "  Caf\u00e9 &amp; \\xe2\\x98\\x85 \uff21\uff22 ")
    assert client.get("/catalog/p").json()["title"] == "Caf\u00e9 & \u2605 AB"
    assert ask(client, "Cafe\u0301 & \u2605 AB").json()["matches"][0]["score"] == 1.0


@pytest.mark.parametrize("product_id", ["both", "photo", "title"])
@pytest.mark.parametrize(
    "options", [{}, {"threshold": -1}, {"threshold": 0.9, "limit": 1}, {"filter": '{"size": 1}'}], ids=str
)
def test_matches_of_a_product_are_those_of_its_photo_and_title_without_itself(
    mixed: TestClient, product_id: str, options: dict[str, Any]
) -> None:
    title, image = {"both": ("aab", RED), "photo": (None, RED), "title": ("aab", None)}[product_id]
    stored = mixed.get(f"/catalog/{product_id}/matches", params=options).json()
    sent = ask(mixed, title, image, **(options | {"limit": 1000})).json()
    others = [match for match in sent["matches"] if match["id"] != product_id]
    limit = options.get("limit", 20)
    itself = len(sent["matches"]) - len(others)
    expected = without_time(sent) | {
        "matches": others[:limit],
        "total": sent["total"] - itself,
        "truncated": len(others) > limit,
    }
    assert without_time(stored) == expected


def test_matches_of_a_product_use_all_of_its_photos(mixed: TestClient) -> None:
    put(mixed, "green", None, GREEN)
    put(mixed, "blue", None, BLUE)
    assert found(mixed.get("/catalog/album/matches")) == ["green", "blue"]


# -- odd but good photos ---------------------------------------------------------------------------------------


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def gradient() -> Image.Image:
    across = np.linspace(0, 255, 64, dtype=np.uint8)
    return Image.fromarray(
        np.stack([np.tile(across, (48, 1)), np.full((48, 64), 60, np.uint8), np.tile(across[::-1], (48, 1))], 2)
    )


def rotated() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(gradient(), "JPEG", exif=exif)


ODD: dict[str, Callable[[], tuple[bytes, str]]] = {
    "animated GIF": lambda: (
        encoded(gradient(), "GIF", save_all=True, append_images=[Image.new("RGB", (64, 48))]), "image/gif"
    ),
    "CMYK": lambda: (encoded(gradient().convert("CMYK"), "JPEG"), "image/jpeg"),
    "16-bit": lambda: (
        encoded(Image.fromarray(np.arange(64 * 48, dtype=np.uint16).reshape(48, 64) * 20), "PNG"), "image/png"
    ),
    "EXIF-rotated": lambda: (rotated(), "image/jpeg"),
    "RGBA": lambda: (encoded(gradient().convert("RGBA"), "PNG"), "image/png"),
    "transparent palette": lambda: (encoded(gradient().convert("P"), "PNG", transparency=0), "image/png"),
    "black and white": lambda: (encoded(gradient().convert("1"), "PNG"), "image/png"),
    "AVIF": lambda: (encoded(gradient(), "AVIF"), "image/avif"),
    "WebP": lambda: (encoded(gradient(), "WEBP"), "image/webp"),
    "TIFF": lambda: (encoded(gradient(), "TIFF"), "image/tiff"),
    "BMP": lambda: (encoded(gradient(), "BMP"), "image/bmp"),
    "long and thin": lambda: (encoded(gradient().resize((900, 16)), "PNG"), "image/png"),
}  # fmt: skip


@pytest.mark.parametrize("make", ODD.values(), ids=ODD.keys())
def test_an_odd_but_good_photo_is_taken_and_matches_itself(
    client: TestClient, make: Callable[[], tuple[bytes, str]]
) -> None:
    data, media_type = make()
    assert put(client, "odd", None, data).status_code == 201
    (match,) = ask(client, None, data, threshold=0.999999).json()["matches"]
    assert match["score"] == match["image_score"] == 1.0
    image = client.get("/catalog/odd/image")
    assert image.content == data
    assert image.headers["content-type"] == media_type


def test_a_rotated_photo_looks_like_the_upright_one(client: TestClient) -> None:
    put(client, "upright", None, encoded(gradient().transpose(Image.Transpose.ROTATE_270), "JPEG"))
    assert ask(client, None, rotated()).json()["matches"][0]["score"] > 0.9999


def test_a_product_with_only_a_photo_must_reach_the_photos_threshold(mixed: TestClient) -> None:
    answer = ask(mixed, "aab", RED).json()  # fused .9, photos .95, titles .8
    assert (answer["threshold"], answer["partial_thresholds"]) == (0.9, {"image": 0.95, "title": 0.8})
    assert ask(mixed, "aab", RED, threshold=0.9).json()["partial_thresholds"] == {}
    mixed.post("/catalog", data={"id": "reddish"}, files={"image": photo((255, 110, 0))}).raise_for_status()
    near = {m["id"]: m["score"] for m in ask(mixed, "aab", RED, threshold=0.9).json()["matches"]}
    assert 0.9 <= near["reddish"] < 0.95
    assert "reddish" not in [m["id"] for m in ask(mixed, "aab", RED).json()["matches"]]
