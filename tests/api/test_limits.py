"""Limits that have a setting: what is at the limit is taken, what is above it is refused."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest
from fastapi.testclient import TestClient

from app.bootstrap import product_limits
from app.core.product import DEFAULT_LIMITS, ProductLimits
from app.settings import Settings
from tests.api.calls import BLUE, GREEN, RED, ask, check_problem, csv_file, jsonl_file, lines, put
from tests.api.conftest import Start

SMALL: dict[str, Any] = {
    "max_photos": 2, "max_attributes": 3, "max_attribute_chars": 4, "max_filter_values": 5, "max_table_columns": 6,
    "max_feedback_bytes": 1024,
}  # fmt: skip


@pytest.fixture
def small(start: Start) -> TestClient:
    return start(**SMALL)


def test_every_limit_has_a_setting() -> None:
    assert product_limits(Settings(**SMALL)) == ProductLimits(2, 3, 4, 5, 6)
    assert product_limits(Settings()) == DEFAULT_LIMITS
    assert {f"max_{one.name}" for one in fields(ProductLimits)} <= set(Settings.model_fields)


def test_photos(small: TestClient) -> None:
    assert put(small, "p", None, RED, GREEN).status_code == 201
    check_problem(put(small, "p", None, RED, GREEN, BLUE), [422], "invalid_input")


@pytest.mark.parametrize(
    ("attributes", "taken"),
    [
        ({"a": 1, "b": 2, "c": 3}, True),
        ({"a": 1, "b": 2, "c": 3, "d": 4}, False),
        ({"a": "1234"}, True),
        ({"a": "12345"}, False),
    ],
)
def test_attributes_and_filters(small: TestClient, attributes: dict[str, str | int], taken: bool) -> None:
    text = str(attributes).replace("'", '"')
    statuses = [put(small, "p", "abc", attributes=text).status_code]
    item = {"id": "q", "title": "abc"} | {"attributes": attributes}
    statuses += [lines(small.post("/catalog/batch", json={"items": [item]}))[0].get("error", {"status": 201})["status"]]
    manifest = jsonl_file({"id": "r", "title": "abc"} | attributes)
    answer = small.post("/catalog/batch", files={"manifest": manifest})
    statuses += [lines(answer)[0].get("error", {"status": 201})["status"]]
    assert statuses == [201 if taken else 422] * 3
    put(small, "s", "abc")
    statuses = [ask(small, "abc", filter=text).status_code, small.get(f"/catalog/s/matches?filter={text}").status_code]
    statuses += [small.post("/match/batch", json={"items": [{"title": "abc"}], "filter": attributes}).status_code]
    assert statuses == [200 if taken else 422] * 3


def test_accepted_values_of_a_filter(small: TestClient) -> None:
    assert ask(small, "abc", filter='{"a": [1, 2, 3, 4, 5]}').status_code == 200
    check_problem(ask(small, "abc", filter='{"a": [1, 2, 3, 4, 5, 6]}'), [422], "invalid_filter")


def test_columns_of_a_manifest(small: TestClient) -> None:
    assert lines(small.post("/match/batch", files={"manifest": csv_file("id,title,a,b,c,d", "p,abc,,,,")}))
    answer = small.post("/match/batch", files={"manifest": csv_file("id,title,a,b,c,d,e", "p,abc,,,,,")})
    check_problem(answer, [422], "invalid_listings")


def test_feedback(small: TestClient) -> None:
    put(small, "p", "abc")
    said = {"sides": [{"id": "p"}, {"title": "x"}], "same": True, "by": "ann", "note": "n" * 900}
    assert small.post("/feedback", json=said).status_code == 201
    check_problem(small.post("/feedback", json=said | {"note": "n" * 1000}), [413], "payload_too_large")
