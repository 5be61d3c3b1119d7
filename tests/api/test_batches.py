"""POST /match/batch and POST /catalog/batch: in order, line by line, one bad item costs one line."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from fastapi.testclient import TestClient

from tests.api.calls import BLUE, GREEN, RED, ask, csv_file, found, jsonl_file, lines, put, without_time, zip_file
from tests.fakes import POISON

BASE64 = {name: base64.b64encode(data).decode() for name, data in (("red", RED), ("green", GREEN), ("blue", BLUE))}
PRODUCTS: dict[str, dict[str, Any]] = {
    "JSON": {
        "json": {
            "items": [
                {"id": "a", "title": "aaa", "image": BASE64["red"], "attributes": {"brand": "Acme"}},
                {"id": "b", "title": "bbb"},
                {"id": "c", "images": [BASE64["green"], BASE64["blue"]]},
            ]
        }
    },
    "CSV": {
        "files": {
            "manifest": csv_file("id,title,image,brand", "a,aaa,red.png,Acme", "b,bbb,,", "c,,green.png|sub/blue.png,"),
            "photos": zip_file({"red.png": RED, "green.png": GREEN, "sub/blue.png": BLUE}),
        }
    },
    "JSON lines": {
        "files": {
            "manifest": jsonl_file(
                {"id": "a", "title": "aaa", "image": "red.png", "brand": "Acme"},
                {"id": "b", "title": "bbb"},
                {"id": "c", "image": ["green.png", "sub/blue.png"]},
            ),
            "photos": zip_file({"red.png": RED, "green.png": GREEN, "sub/blue.png": BLUE}),
        }
    },
}


def statuses(answer: Any) -> list[tuple[int, str | None, str]]:
    return [(one["index"], one["id"], one.get("status") or one["error"]["code"]) for one in lines(answer)]


@pytest.mark.parametrize("body", PRODUCTS.values(), ids=PRODUCTS.keys())
def test_products_are_indexed_in_every_form(client: TestClient, body: dict[str, Any]) -> None:
    assert statuses(client.post("/catalog/batch", **body)) == [(0, "a", "created"), (1, "b", "created"), (2, "c", "created")]
    assert statuses(client.post("/catalog/batch", **body)) == [
        (0, "a", "replaced"),
        (1, "b", "replaced"),
        (2, "c", "replaced"),
    ]
    assert [p["id"] for p in client.get("/catalog").json()["products"]] == ["a", "b", "c"]
    assert client.get("/catalog/a").json()["attributes"] == {"brand": "Acme"}
    assert client.get("/catalog/b").json()["attributes"] == {}
    assert client.get("/catalog/c/image?position=1").content == BLUE
    assert found(ask(client, "aaa", RED)) == ["a"]
    assert found(ask(client, None, BLUE)) == ["c"]


@pytest.mark.parametrize("kind", ["JSON", "CSV", "JSON lines"])
def test_a_match_batch_answers_like_single_calls_in_order(client: TestClient, kind: str) -> None:
    lines(client.post("/catalog/batch", **PRODUCTS["JSON"]))
    queries: list[tuple[str | None, bytes | None]] = [
        ("aaa", RED),
        ("bbb", None),
        (None, GREEN),
        ("aaa", None),
        (None, BLUE),
    ] * 5
    names = {RED: "red", GREEN: "green", BLUE: "blue"}
    photos = zip_file({f"{name}.png": data for data, name in names.items()})
    if kind == "JSON":
        items = [
            {"id": f"q{n}"} | ({"title": t} if t else {}) | ({"image": BASE64[names[i]]} if i else {})
            for n, (t, i) in enumerate(queries)
        ]
        answer = client.post("/match/batch", json={"items": items, "threshold": 0.5, "limit": 2, "filter": {}})
    else:
        rows = [(f"q{n}", t or "", f"{names[i]}.png" if i else "") for n, (t, i) in enumerate(queries)]
        manifest = (
            csv_file("query,title,image", *(",".join(row) for row in rows))
            if kind == "CSV"
            else jsonl_file(*({"id": q, "title": t, "image": i} for q, t, i in rows))
        )
        form = {"manifest": manifest, "photos": photos}
        answer = client.post("/match/batch", files=form, data={"threshold": "0.5", "limit": "2", "filter": "{}"})
    read = lines(answer)
    assert [(one.pop("index"), one.pop("id")) for one in read] == [(n, f"q{n}") for n in range(len(queries))]
    single = [ask(client, t, i, threshold=0.5, limit=2).json() for t, i in queries]
    assert [without_time(one) for one in read] == [without_time(one) for one in single]


def test_the_fields_of_a_match_batch_apply_to_every_item(client: TestClient) -> None:
    for n in range(5):
        put(client, f"p{n}", "same", catalog="shop", attributes=json.dumps({"even": n % 2 == 0}))
    body = {"items": [{"title": "same"}, {"id": "x", "title": "same"}], "catalog": "shop", "limit": 1}
    for one in lines(client.post("/match/batch", json=body | {"filter": {"even": False}, "threshold": 0.25})):
        assert (one["catalog"], one["total"], one["truncated"], one["threshold"]) == ("shop", 2, True, 0.25)
        assert [match["id"] for match in one["matches"]] == ["p1"]


def test_items_of_a_match_batch_need_no_id(client: TestClient) -> None:
    answer = client.post("/match/batch", json={"items": [{"title": "x"}, {"title": "x"}]})
    assert [(one["index"], one["id"]) for one in lines(answer)] == [(0, None), (1, None)]


def test_products_of_a_batch_need_an_id(client: TestClient) -> None:
    answer = client.post("/catalog/batch", json={"items": [{"title": "x"}, {"id": "a", "title": "x"}]})
    assert statuses(answer) == [(0, None, "invalid_input"), (1, "a", "created")]
    answer = client.post("/catalog/batch", files={"manifest": csv_file("id,title", ",x", "b,y")})
    assert [status for _, _, status in statuses(answer)] == ["invalid_input", "created"]


@pytest.mark.parametrize("place", [0, 1, 7, 8, 19])
def test_a_bad_item_anywhere_costs_its_own_line_only(client: TestClient, place: int) -> None:
    items = [{"id": f"p{n}", "title": f"title {n}"} for n in range(20)]
    items[place] = {"id": f"p{place}", "title": " "}
    stored = statuses(client.post("/catalog/batch", json={"items": items}))
    expected = [(n, f"p{n}", "invalid_title" if n == place else "created") for n in range(20)]
    assert stored == expected
    assert client.get("/catalog").json()["total"] == 19
    answers = lines(client.post("/match/batch", json={"items": items}))
    assert [n for n, one in enumerate(answers) if "error" in one] == [place]


def test_an_item_that_breaks_the_model_fails_alone(client: TestClient) -> None:
    items = [{"id": f"p{n}", "title": POISON if n in (3, 11) else f"title {n}"} for n in range(20)]
    stored = lines(client.post("/catalog/batch", json={"items": items}))
    failed = {n: one["error"] for n, one in enumerate(stored) if "error" in one}
    assert sorted(failed) == [3, 11]
    assert all((e["status"], e["code"]) == (500, "encoding_failed") and "poison" not in e["detail"] for e in failed.values())
    assert client.get("/catalog").json()["total"] == 18
    answers = lines(client.post("/match/batch", json={"items": items}))
    assert [n for n, one in enumerate(answers) if "error" in one] == [3, 11]
    assert all(one["matches"][0]["score"] == 1.0 for one in answers if "error" not in one)


def test_among_equal_photos_and_titles_a_bad_one_fails_alone(client: TestClient) -> None:
    broken = base64.b64encode(RED[: len(RED) // 2]).decode()
    items = [{"id": f"p{n}", "title": ("same", " same ")[n % 2], "image": BASE64["red"]} for n in range(20)]
    items[5]["image"], items[9]["title"], items[13]["image"] = broken, POISON, BASE64["blue"]
    stored = statuses(client.post("/catalog/batch", json={"items": items}))
    failed = {5: "invalid_image", 9: "encoding_failed"}
    assert stored == [(n, f"p{n}", failed.get(n, "created")) for n in range(20)]
    scores = {one["id"]: (one["image_score"], one["title_score"]) for one in matches_of_p0(client)}
    assert scores.pop("p13")[0] < 0.9
    assert scores == {f"p{n}": (1.0, 1.0) for n in range(1, 20) if n not in (5, 9, 13)}


def matches_of_p0(client: TestClient) -> Any:
    return client.get("/catalog/p0/matches", params={"threshold": -1, "limit": 50}).json()["matches"]


def test_a_photo_that_is_not_in_the_zip_is_named(client: TestClient) -> None:
    form = {"manifest": csv_file("id,title,image", "a,aaa,red.png", "b,bbb,blue.png"), "photos": zip_file({"red.png": RED})}
    one, other = lines(client.post("/catalog/batch", files=form))
    assert one["status"] == "created"
    assert "blue.png" in other["error"]["detail"]
    del form["photos"]
    one, other = lines(client.post("/catalog/batch", files=form))
    assert "photos" in one["error"]["detail"]
    assert found(ask(client, "aaa", RED)) == ["a"]


def test_a_csv_row_of_the_wrong_length_costs_its_line(client: TestClient) -> None:
    answer = client.post("/catalog/batch", files={"manifest": csv_file("id,title", "a,aaa", "b", "c,ccc,ddd", "d,ddd")})
    assert [status for _, _, status in statuses(answer)] == ["created", "invalid_listings", "invalid_listings", "created"]


def test_only_the_good_products_of_a_batch_are_stored(client: TestClient) -> None:
    put(client, "old", "aaa", RED)
    items = [{"id": "old", "title": "bbb"}, {"id": "bad", "image": "AAAA"}, {"id": "new", "title": "ccc"}]
    answer = client.post("/catalog/batch", json={"items": items, "catalog": "default"})
    assert [status for _, _, status in statuses(answer)] == ["replaced", "invalid_image", "created"]
    assert [product["id"] for product in client.get("/catalog").json()["products"]] == ["old", "new"]
    assert client.get("/catalog/old").json()["title"] == "bbb"


def test_a_batch_goes_into_the_catalog_it_names(client: TestClient) -> None:
    form = {"manifest": csv_file("id,title", "a,aaa")}
    assert statuses(client.post("/catalog/batch", files=form, data={"catalog": "shop"})) == [(0, "a", "created")]
    assert client.get("/model").json()["catalogs"] == {"default": 0, "shop": 1}


def test_a_batch_larger_than_the_queue_waits_instead_of_failing(client: TestClient) -> None:
    items = [{"id": f"p{n}", "title": f"title {n}"} for n in range(150)]
    assert {status for _, _, status in statuses(client.post("/catalog/batch", json={"items": items}))} == {"created"}
    answers = lines(client.post("/match/batch", json={"items": items, "limit": 1000, "threshold": 0.999999}))
    assert all(one["total"] >= 1 for one in answers)
    assert [one["id"] for one in answers] == [f"p{n}" for n in range(150)]
