"""POST, GET and DELETE /catalog: create, read, replace, remove, browse."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import quote

import pytest
from fastapi.testclient import TestClient

from app.api.app import create_app
from app.matcher import Matcher
from app.settings import Settings
from tests.api.calls import BLUE, GREEN, RED, ask, check_problem, found, put
from tests.fakes import photo

IDS = [
    "a",
    "a/b/c",
    "a b",
    "50% off",
    "a#b?c=d&e",
    "batch",
    "image",
    "matches",
    "x/image/y",
    "\u00e9t\u00e9-\u4e2d\u6587-\U0001f600",
    "x" * 200,
]


def test_a_new_product_is_created_and_an_old_one_replaced(client: TestClient) -> None:
    made = put(client, "p", "aaa", RED, attributes='{"brand": "Acme", "price": 9.5, "new": true}')
    assert made.status_code == 201
    body = made.json()
    assert set(body) == {"id", "catalog", "title", "attributes", "image_urls", "created_at", "updated_at"}
    assert (body["id"], body["catalog"], body["title"]) == ("p", "default", "aaa")
    assert body["attributes"] == {"brand": "Acme", "price": 9.5, "new": True}
    assert body["attributes"]["new"] is True
    assert body == client.get("/catalog/p").json()
    again = put(client, "p", "bbb")
    assert again.status_code == 200
    assert again.json() == client.get("/catalog/p").json()
    assert again.json()["created_at"] == body["created_at"] <= again.json()["updated_at"]
    assert (again.json()["attributes"], again.json()["image_urls"]) == ({}, [])


def test_times_say_their_zone(client: TestClient) -> None:
    body = put(client, "p", "aaa").json()
    assert body["created_at"].endswith(("Z", "+00:00"))
    assert body["created_at"] == client.get("/catalog/p").json()["created_at"]


def test_replacing_is_seen_by_the_next_question(client: TestClient) -> None:
    put(client, "p", "aaa", RED)
    put(client, "p", "bbb", BLUE)
    assert found(ask(client, "aaa", RED)) == []
    assert found(ask(client, "bbb", BLUE)) == ["p"]
    check_problem(client.get("/catalog/p/image?position=1"), [404], "photo_not_found")


def test_deleting_is_seen_by_the_next_question_and_can_be_done_once(client: TestClient) -> None:
    put(client, "p", "aaa", RED)
    gone = client.delete("/catalog/p")
    assert (gone.status_code, gone.content) == (204, b"")
    assert found(ask(client, "aaa", RED, threshold=-1)) == []
    for answer in (client.delete("/catalog/p"), client.get("/catalog/p"), client.get("/catalog/p/image")):
        check_problem(answer, [404], "product_not_found")
    assert client.get("/catalog").json()["total"] == 0
    assert put(client, "p", "aaa", RED).status_code == 201


@pytest.mark.parametrize("product_id", IDS, ids=lambda text: ascii(text[:12]))
def test_any_id_that_is_taken_works_in_every_address(client: TestClient, product_id: str) -> None:
    put(client, "other", "aaa", RED)
    made = put(client, product_id, "aaa", RED)
    assert made.status_code == 201, made.text
    path = f"/catalog/{quote(product_id, safe='')}"
    for address in (path, f"/catalog/{quote(product_id)}"):
        assert client.get(address).json()["id"] == product_id
        assert client.get(f"{address}/image").content == RED
        assert found(client.get(f"{address}/matches")) == ["other"]
    assert client.get(made.json()["image_urls"][0]).content == RED
    match = next(one for one in ask(client, "aaa", RED).json()["matches"] if one["id"] == product_id)
    assert client.get(match["image_url"]).content == RED
    assert client.delete(path).status_code == 204


def test_photos_come_back_as_they_were_sent_each_with_its_type(client: TestClient) -> None:
    sent = [(RED, "image/png"), (photo((1, 2, 3), kind="JPEG"), "image/jpeg"), (photo((1, 2, 3), kind="WEBP"), "image/webp")]
    urls = put(client, "p", None, *[data for data, _ in sent]).json()["image_urls"]
    for url, (data, media_type) in zip(urls, sent, strict=True):
        answer = client.get(url)
        assert answer.content == data
        assert answer.headers["content-type"] == media_type
        assert answer.headers["x-content-type-options"] == "nosniff"


def test_a_product_may_have_twenty_photos(client: TestClient) -> None:
    colours = [photo((n * 12, 255 - n * 12, 128)) for n in range(20)]
    urls = put(client, "p", "aaa", *colours).json()["image_urls"]
    assert [client.get(url).content for url in urls] == colours


def test_catalogs_are_made_on_first_use_and_kept_apart(client: TestClient) -> None:
    assert put(client, "p", "aaa", RED, catalog="shop-1").status_code == 201
    assert put(client, "p", "bbb", GREEN).status_code == 201
    assert found(ask(client, "aaa", RED, catalog="shop-1")) == ["p"]
    assert found(ask(client, "aaa", RED)) == []
    (match,) = ask(client, "aaa", RED, catalog="shop-1").json()["matches"]
    assert client.get(match["image_url"]).content == RED
    assert client.get("/catalog/p?catalog=shop-1").json()["catalog"] == "shop-1"
    assert client.get("/model").json()["catalogs"] == {"default": 1, "shop-1": 1}
    assert client.delete("/catalog/p?catalog=shop-1").status_code == 204
    assert found(ask(client, "bbb", GREEN)) == ["p"]


def test_browsing_shows_every_product_once_in_the_order_of_first_indexing(client: TestClient) -> None:
    for n in range(7):
        put(client, f"p{n}", "same")
    put(client, "p0", "other")
    seen: list[str] = []
    cursor: str | None = None
    while True:
        query = "/catalog?limit=3" + (f"&cursor={cursor}" if cursor else "")
        page = client.get(query).json()
        assert set(page) == {"products", "cursor", "total"}
        assert page["total"] == 7
        seen += [product["id"] for product in page["products"]]
        cursor = page["cursor"]
        if cursor is None:
            break
    assert seen == [f"p{n}" for n in range(7)]
    assert client.get("/catalog").json()["cursor"] is None


def test_browsing_goes_on_rightly_while_products_come_and_go(client: TestClient) -> None:
    for n in range(5):
        put(client, f"p{n}", "same")
    cursor = client.get("/catalog?limit=2").json()["cursor"]
    for gone in ("p1", "p3"):
        client.delete(f"/catalog/{gone}")
    put(client, "new", "same")
    rest = client.get(f"/catalog?cursor={cursor}").json()
    assert [product["id"] for product in rest["products"]] == ["p2", "p4", "new"]


def test_after_a_restart_everything_is_found_again(open_matcher: Callable[..., Matcher]) -> None:
    def run(matcher: Matcher) -> TestClient:
        return TestClient(create_app(matcher, Settings()), raise_server_exceptions=False)

    with run(open_matcher()) as client:
        put(client, "p", "aaa", RED, BLUE, attributes='{"brand": "Acme"}')
        put(client, "gone", "bbb", GREEN)
        put(client, "q", "ccc", catalog="other")
        client.delete("/catalog/gone")
        before = [client.get("/catalog").json(), client.get("/catalog?catalog=other").json()]
    with run(open_matcher()) as client:
        assert [client.get("/catalog").json(), client.get("/catalog?catalog=other").json()] == before
        assert found(ask(client, "aaa", BLUE, filter='{"brand": "Acme"}')) == ["p"]
        assert found(ask(client, "ccc", catalog="other")) == ["q"]
        assert found(ask(client, "bbb", GREEN, threshold=-1)) == ["p"]
        assert client.get("/catalog/p/image?position=1").content == BLUE
