"""POST and GET /feedback, GET /feedback/contradictions."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from fastapi.testclient import TestClient

from app.api.app import create_app
from app.matcher import Matcher
from app.settings import Settings
from tests.api.calls import BLUE, RED, Response, ask, check_problem, put
from tests.api.conftest import Start, make_app

FIELDS = {"number", "catalog", "sides", "same", "by", "at", "note", "request_id", "replaced"}


def say(client: TestClient, first: Any, second: Any, same: Any = True, by: Any = "ana", **more: Any) -> Response:
    """POST /feedback; a side that is plain text is a product's id."""
    sides = [{"id": side} if isinstance(side, str) else side for side in (first, second)]
    answer: Response = client.post("/feedback", json={"sides": sides, "same": same, "by": by} | more)
    return answer


def listed(client: TestClient, **query: Any) -> list[dict[str, Any]]:
    """GET /feedback, all pages."""
    seen: list[dict[str, Any]] = []
    while True:
        answer = client.get("/feedback", params=query)
        assert answer.status_code == 200, answer.text
        body = answer.json()
        assert set(body) == {"statements", "cursor", "total"}
        seen += body["statements"]
        assert len(seen) <= body["total"]
        if body["cursor"] is None:
            assert len(seen) == body["total"]
            return seen
        query["cursor"] = body["cursor"]


@pytest.fixture
def shop(client: TestClient) -> TestClient:
    """The app with products `a` to `d`, and `a` and `b` in another catalog too."""
    for name in "abcd":
        put(client, name, f"title {name}")
    for name in "ab":
        put(client, name, f"other {name}", catalog="other")
    return client


# -- good input ------------------------------------------------------------------------------------------------


def test_a_statement_about_two_products_is_stored_with_what_they_are(client: TestClient) -> None:
    put(client, "p", "aaa", RED, BLUE)
    put(client, "q", None, RED)
    before = datetime.now(UTC)
    made = say(client, "q", "p", note="another\nsize", request_id="abc-1.2_3")
    assert made.status_code == 201
    body = made.json()
    assert set(body) == FIELDS
    red, blue = (hashlib.sha256(photo).hexdigest() for photo in (RED, BLUE))
    assert body["sides"] == [
        {"id": "p", "title": "aaa", "photos": [red, blue]},
        {"id": "q", "title": None, "photos": [red]},
    ]
    assert (body["same"], body["by"], body["note"]) == (True, "ana", "another\nsize")
    assert (body["catalog"], body["request_id"], body["replaced"]) == ("default", "abc-1.2_3", False)
    assert body["at"].endswith("Z")
    assert before <= datetime.fromisoformat(body["at"]) <= datetime.now(UTC)
    assert listed(client) == [body]


def test_a_statement_about_an_answer_names_the_question_and_its_request(shop: TestClient) -> None:
    answer = ask(shop, "  title\ta ")
    made = say(shop, {"title": "  title\ta "}, "a", request_id=answer.headers["x-request-id"])
    assert made.status_code == 201, made.text
    assert made.json()["sides"] == [
        {"id": "a", "title": "title a", "photos": []},
        {"id": None, "title": "title a", "photos": []},
    ]


@pytest.mark.parametrize("by", ["a", "x" * 200, "Ana Mar\u00eda, shop 7", "\u5f20\u4f1f \U0001f600"])
def test_anybody_with_a_readable_name_may_speak(shop: TestClient, by: str) -> None:
    assert say(shop, "a", "b", by=by).json()["by"] == by
    assert listed(shop)[0]["by"] == by


def test_catalogs_have_feedback_of_their_own(shop: TestClient) -> None:
    one, other = say(shop, "a", "b").json(), say(shop, "a", "b", False, catalog="other").json()
    assert [side["title"] for side in other["sides"]] == ["other a", "other b"]
    assert (listed(shop), listed(shop, catalog="other")) == ([one], [other])
    assert shop.get("/feedback/contradictions").json()["contradictions"] == []


def test_a_statement_changes_no_answer_and_no_product(shop: TestClient) -> None:
    before = [shop.get("/catalog").json(), ask(shop, "title a", threshold=-1).json()["matches"]]
    say(shop, "a", "b", False)
    assert [shop.get("/catalog").json(), ask(shop, "title a", threshold=-1).json()["matches"]] == before


# -- what becomes of statements --------------------------------------------------------------------------------


def test_a_later_statement_of_the_same_person_replaces_and_both_stay_readable(shop: TestClient) -> None:
    first, other = say(shop, "a", "b").json(), say(shop, "a", "b", by="ben").json()
    second = say(shop, "b", "a", False, note="looked again").json()
    assert listed(shop) == [second, other, first | {"replaced": True}]
    assert second["number"] > other["number"] > first["number"]


def test_statements_outlive_their_products(client: TestClient) -> None:
    put(client, "p", "aaa", RED)
    put(client, "q", "bbb")
    made = say(client, "p", "q").json()
    put(client, "p", "ccc")
    client.delete("/catalog/q")
    assert listed(client) == [made]
    check_problem(say(client, "p", "q"), [404], "product_not_found")
    put(client, "q", "ddd")
    again = say(client, "p", "q").json()
    assert [side["title"] for side in again["sides"]] == ["ccc", "ddd"]
    assert listed(client) == [again, made | {"replaced": True}]


def test_everything_is_there_after_a_restart(open_matcher: Callable[..., Matcher]) -> None:
    def run(matcher: Matcher) -> TestClient:
        return TestClient(create_app(matcher, Settings()), raise_server_exceptions=False)

    with run(open_matcher()) as client:
        for name in "abc":
            put(client, name, name)
        for pair, same in (("ab", True), ("bc", True), ("ac", True), ("ac", False)):
            assert say(client, pair[0], pair[1], same).status_code == 201
        client.delete("/catalog/c")
        before = [listed(client), client.get("/feedback/contradictions").json()]
    with run(open_matcher()) as client:
        assert [listed(client), client.get("/feedback/contradictions").json()] == before
        assert len(before[0]) == 4
        assert say(client, "a", "b").json()["number"] > before[0][0]["number"]


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 8])
def test_browsing_shows_every_statement_once_newest_first(shop: TestClient, limit: int) -> None:
    made = [say(shop, "a", "b", by=f"person {n}").json() for n in range(7)]
    assert listed(shop, limit=limit) == made[::-1]


def test_browsing_goes_on_rightly_while_statements_come(shop: TestClient) -> None:
    made = [say(shop, "a", "b", by=f"person {n}").json() for n in range(4)]
    page = shop.get("/feedback?limit=2").json()
    say(shop, "a", "b", by="late")
    rest = shop.get(f"/feedback?cursor={page['cursor']}").json()
    assert page["statements"] + rest["statements"] == made[::-1]


def test_statements_are_counted_by_verdict(shop: TestClient) -> None:
    for by, same in (("ana", True), ("ben", False), ("cy", False)):
        say(shop, "a", "b", same, by)
    say(shop, "a", "nothing")
    text = shop.get("/metrics").text
    assert 'samesku_feedback_total{verdict="same"} 1.0' in text
    assert 'samesku_feedback_total{verdict="different"} 2.0' in text


# -- contradictions --------------------------------------------------------------------------------------------


def test_contradictions_are_shown_with_who_said_what(shop: TestClient) -> None:
    numbers = [
        say(shop, first, second, same, by).json()["number"]
        for first, second, same, by in [
            ("a", "b", True, "ana"), ("b", "c", True, "ben"), ("b", "c", True, "cy"), ("c", "a", False, "ana"),
            ("d", {"title": "a question"}, True, "ana"), ("d", {"title": "a question"}, False, "ben"),
        ]
    ]  # fmt: skip
    body = shop.get("/feedback/contradictions").json()
    assert (body["truncated"], body["catalog"]) == (False, "default")
    direct, chain = body["contradictions"]
    assert (direct["kind"], chain["kind"]) == ("direct", "chain")
    assert direct["text"] == "'d' is not the title 'a question' (ben), but 'd' is the title 'a question' (ana)."
    assert chain["text"] == "'a' is not 'c' (ana), but 'a' is 'b' (ana), 'b' is 'c' (ben, cy)."
    assert chain["differ"] == {
        "sides": [{"id": name, "title": f"title {name}", "photos": []} for name in "ac"],
        "same": False, "by": ["ana"], "numbers": [numbers[3]],
    }  # fmt: skip
    assert [(link["same"], link["by"], link["numbers"]) for link in chain["chain"]] == [
        (True, ["ana"], numbers[:1]), (True, ["ben", "cy"], numbers[1:3]),
    ]  # fmt: skip
    cut = shop.get("/feedback/contradictions?limit=1").json()
    assert (cut["truncated"], cut["contradictions"]) == (True, [direct])
    assert shop.get("/feedback/contradictions?limit=2").json() == body
    say(shop, "a", "c", True, "ana")
    say(shop, "d", {"title": "a question"}, True, "ben")
    assert shop.get("/feedback/contradictions").json()["contradictions"] == []


# -- bad input -------------------------------------------------------------------------------------------------

GOOD: dict[str, Any] = {"sides": [{"id": "a"}, {"id": "b"}], "same": True, "by": "ana"}
BAD_BODIES: dict[str, bytes] = {
    "empty": b"",
    "no JSON": b"{",
    "no UTF-8": b'{"by": "\xff"}',
    "null": b"null",
    "a list": b"[]",
    "text": b'"same"',
    "too deep": b'{"sides": ' + b"[" * 100_000,
    "lone surrogate": json.dumps(GOOD).replace("ana", "\\ud800").encode(),
    "a number too long": json.dumps(GOOD).replace("true", "1" * 5000).encode(),
}
BAD_FIELDS: dict[str, dict[str, Any]] = {
    "no side": {"sides": []},
    "one side": {"sides": [{"id": "a"}]},
    "three sides": {"sides": [{"id": "a"}, {"id": "b"}, {"id": "c"}]},
    "sides as an object": {"sides": {"id": "a"}},
    "a side as text": {"sides": ["a", "b"]},
    "a side of nothing": {"sides": [{"id": "a"}, {}]},
    "a side of nulls": {"sides": [{"id": "a"}, {"id": None, "title": None}]},
    "a side of both": {"sides": [{"id": "a"}, {"id": "b", "title": "title b"}]},
    "a side of something else": {"sides": [{"id": "a"}, {"id": "b", "photos": []}]},
    "a number as id": {"sides": [{"id": "a"}, {"id": 1}]},
    "a number as title": {"sides": [{"id": "a"}, {"title": 1}]},
    "an empty id": {"sides": [{"id": "a"}, {"id": ""}]},
    "an id that cannot be": {"sides": [{"id": "a"}, {"id": "b\n"}]},
    "an id that is too long": {"sides": [{"id": "a"}, {"id": "x" * 201}]},
    "the same product": {"sides": [{"id": "a"}, {"id": "a"}]},
    "the same title": {"sides": [{"title": "x"}, {"title": "x"}]},
    "two titles": {"sides": [{"title": "x"}, {"title": "y"}]},
    "no verdict": {"same": None},
    "a number as verdict": {"same": 1},
    "a word as verdict": {"same": "true"},
    "nobody": {"by": None},
    "an empty name": {"by": ""},
    "a blank name": {"by": " "},
    "blanks around a name": {"by": " ana"},
    "a name of two lines": {"by": "a\nb"},
    "NUL in a name": {"by": "a\0b"},
    "a name that is too long": {"by": "x" * 201},
    "a number as name": {"by": 7},
    "an empty note": {"note": ""},
    "a note that is too long": {"note": "x" * 1001},
    "NUL in a note": {"note": "a\0b"},
    "a list as note": {"note": []},
    "an empty request id": {"request_id": ""},
    "a request id with a blank": {"request_id": "a b"},
    "a request id that is too long": {"request_id": "x" * 65},
    "a bad catalog": {"catalog": "../x"},
    "no catalog": {"catalog": None},
    "a time of one's own": {"at": "2026-01-01T00:00:00Z"},
    "an unknown field": {"colour": "red"},
}
BAD_TITLES = ["", " \t", "a\0b", "x" * 2001, "\u200b"]


@pytest.fixture(scope="module")
def shared_app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """One app with two products and a statement, for all of these tests: none of them may leave a trace."""
    app = make_app(tmp_path_factory.mktemp("feedback"), None)
    with TestClient(app, raise_server_exceptions=False) as client:
        for name in "ab":
            put(client, name, f"title {name}")
        assert client.post("/feedback", json=GOOD).status_code == 201
        yield client


@pytest.fixture
def untouched(shared_app: TestClient) -> Iterator[TestClient]:
    """The app; after the test it holds the same statement and nothing else."""
    before = listed(shared_app)
    yield shared_app
    assert listed(shared_app) == before
    assert len(before) == 1


@pytest.mark.parametrize("body", BAD_BODIES.values(), ids=BAD_BODIES.keys())
def test_a_body_that_cannot_be_read_is_refused(untouched: TestClient, body: bytes) -> None:
    answer = untouched.post("/feedback", content=body, headers={"content-type": "application/json"})
    check_problem(answer, [422], "invalid_input")


@pytest.mark.parametrize("change", BAD_FIELDS.values(), ids=BAD_FIELDS.keys())
def test_a_bad_field_is_refused(untouched: TestClient, change: dict[str, Any]) -> None:
    check_problem(untouched.post("/feedback", json=GOOD | change), [422], "invalid_input")


@pytest.mark.parametrize("field", ["sides", "same", "by"])
def test_a_missing_field_is_named(untouched: TestClient, field: str) -> None:
    answer = untouched.post("/feedback", json={name: value for name, value in GOOD.items() if name != field})
    check_problem(answer, [422], "invalid_input")
    assert field in answer.json()["detail"]


@pytest.mark.parametrize("title", BAD_TITLES, ids=lambda title: ascii(title[:5]))
def test_a_title_that_nobody_can_have_asked_is_refused(untouched: TestClient, title: str) -> None:
    check_problem(say(untouched, "a", {"title": title}), [422], "invalid_title")


@pytest.mark.parametrize("kind", ["", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"])
def test_a_body_of_another_type_is_refused(untouched: TestClient, kind: str) -> None:
    headers = {"content-type": kind} if kind else {}
    answer = untouched.post("/feedback", content=json.dumps(GOOD).encode(), headers=headers)
    check_problem(answer, [415], "unsupported_media_type")


def test_an_unknown_product_or_catalog_is_refused(untouched: TestClient) -> None:
    check_problem(say(untouched, "a", "nothing"), [404], "product_not_found")
    check_problem(say(untouched, "nothing", {"title": "x"}), [404], "product_not_found")
    check_problem(say(untouched, "a", "b", catalog="nowhere"), [404], "catalog_not_found")
    for call in ("/feedback", "/feedback/contradictions"):
        check_problem(untouched.get(f"{call}?catalog=nowhere"), [404], "catalog_not_found")


@pytest.mark.parametrize("limit", ["0", "-1", "1001", "1.5", "x", ""])
def test_a_limit_out_of_range_is_refused(untouched: TestClient, limit: str) -> None:
    for call in ("/feedback", "/feedback/contradictions"):
        check_problem(untouched.get(call, params={"limit": limit}), [422], "invalid_input")


@pytest.mark.parametrize("cursor", ["", "x", "-1", "1.5", "9" * 19, "\u0661", "1 "])
def test_a_cursor_that_no_page_gave_is_refused(untouched: TestClient, cursor: str) -> None:
    check_problem(untouched.get("/feedback", params={"cursor": cursor}), [422], "invalid_input")


def test_a_body_over_the_limit_is_refused(start: Start) -> None:
    client = start(max_request_bytes=2000)
    check_problem(client.post("/feedback", json=GOOD | {"note": "x" * 5000}), [413], "payload_too_large")
