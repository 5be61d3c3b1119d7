"""`verify=true`: the photos of doubtful matches are laid over each other."""

from __future__ import annotations

import pytest
from fastapi.testclient import TestClient
from PIL import Image, ImageDraw

from tests.api.calls import ask, put
from tests.unit.photos import saved, scene


def codes(match: dict[str, object]) -> list[str]:
    reasons = match["reasons"]
    assert isinstance(reasons, list)
    return [reason["code"] for reason in reasons]


def picture(colour: tuple[int, int, int]) -> Image.Image:
    """The same scene around a box of that colour."""
    image = scene(1)
    ImageDraw.Draw(image).rectangle((90, 70, 200, 170), fill=colour)
    return image


BLUE, RED = (40, 70, 190), (190, 60, 40)


@pytest.fixture
def asked() -> bytes:
    """The catalog's photo, cropped and compressed."""
    return saved(picture(BLUE).crop((30, 20, 280, 230)), "JPEG", quality=60)


@pytest.fixture
def shop(client: TestClient) -> TestClient:
    put(client, "picture", None, saved(picture(BLUE), "PNG"))
    put(client, "other", None, saved(scene(2), "PNG"))
    put(client, "recoloured", None, saved(picture(RED), "PNG"))
    return client


def test_a_copy_is_told_from_what_only_has_its_colours(shop: TestClient, asked: bytes) -> None:
    plain = ask(shop, image=asked, threshold=-1).json()
    looked = ask(shop, image=asked, threshold=-1, verify="true").json()
    by_id = {match["id"]: match for match in looked["matches"]}
    assert "photos_align" in codes(by_id["picture"])
    assert "recoloured" in codes(by_id["recoloured"])
    assert codes(by_id["other"]) == []
    without = [{**match, "reasons": []} for match in looked["matches"]]
    assert without == plain["matches"]  # the order, the scores and everything else stay


def test_a_photo_that_was_replaced_is_read_again(shop: TestClient, asked: bytes) -> None:
    ask(shop, image=asked, threshold=-1, verify="true")
    put(shop, "picture", None, saved(scene(3), "PNG"))
    looked = ask(shop, image=asked, threshold=-1, verify="true").json()
    assert {match["id"]: codes(match) for match in looked["matches"]}["picture"] == []


def test_verify_needs_a_photo(shop: TestClient) -> None:
    put(shop, "words", "aab")
    answer = ask(shop, "aab", verify="true")
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_input")
    assert "send one" in answer.json()["detail"]
    assert ask(shop, "aab", verify="false").status_code == 200


def test_products_without_a_photo_are_left_as_they_are(client: TestClient, asked: bytes) -> None:
    put(client, "words", "aab")
    put(client, "both", "aab", saved(picture(BLUE), "PNG"))
    looked = ask(client, "aab", asked, threshold=-1, verify="true").json()
    assert {match["id"]: codes(match) for match in looked["matches"]} == {"words": [], "both": ["photos_align"]}
