"""Who is let in: keys, roles, what is open, and what a browser may do."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.security import OPEN, is_loopback, needed_role
from app.catalog.keys import open_keys
from app.commands.serve import kept_to_itself
from app.core.access import Role
from app.settings import Settings
from tests.api.calls import RED, ask, check_problem, found, lines, put
from tests.api.conftest import Start
from tests.api.keys import Caller, Guarded, guarded_app

Guard = Callable[..., Guarded]


@pytest.fixture
def guard(tmp_path: Path) -> Iterator[Guard]:
    """Starts an app that knows keys, on a data folder of its own."""
    with ExitStack() as stack:
        yield lambda **settings: stack.enter_context(guarded_app(tmp_path / "guarded", **settings))


def operations(guarded: Guarded) -> list[tuple[str, str]]:
    """Every call of the OpenAPI, with a product's id in its address."""
    paths = guarded.app.get("/openapi.json").json()["paths"]
    return [(m.upper(), re.sub(r"\{.*?\}", "p", path)) for path, item in paths.items() for m in item]


# -- keys ------------------------------------------------------------------------------------------------------


def test_without_any_key_this_machine_may_do_everything(guard: Guard) -> None:
    guarded = guard()
    assert put(guarded.app, "p", "abc", RED).status_code == 201
    assert found(ask(guarded.app, "abc")) == ["p"]
    assert guarded.app.get("/metrics").status_code == 200


def test_the_first_key_closes_the_door_and_revoking_it_does_not_open_it(guard: Guard) -> None:
    guarded = guard()
    assert guarded.app.get("/model").status_code == 200
    key = guarded.key("admin")
    check_problem(guarded.app.get("/model"), [401], "unauthenticated")
    caller = Caller(guarded.app, key)
    assert caller.get("/model").status_code == 200
    guarded.keys.revoke(key.split("_")[1])
    check_problem(caller.get("/model"), [401], "unauthenticated")
    check_problem(guarded.app.get("/model"), [401], "unauthenticated")


def test_an_address_that_others_reach_wants_a_key_from_the_start(guard: Guard) -> None:
    check_problem(guard(host="0.0.0.0").app.get("/model"), [401], "unauthenticated")


def test_both_headers_carry_a_key(guard: Guard) -> None:
    guarded = guard()
    key = guarded.key()
    for headers in (
        {"Authorization": f"Bearer {key}"},
        {"Authorization": f"bearer  {key} "},
        {"X-API-Key": key},
        {"X-API-Key": key, "Authorization": f"Bearer {key}"},
        {"X-API-Key": key, "Authorization": "Basic dXNlcjpwYXNz"},  # of a proxy in front
    ):
        assert guarded.app.get("/model", headers=headers).status_code == 200, headers


@pytest.mark.parametrize("spoil", ["", "x", "last", "first", "upper", "id", "digest", "huge", "latin"])
def test_what_is_no_key_is_refused(guard: Guard, spoil: str) -> None:
    guarded = guard()
    key, stored = guarded.keys.create("k", Role.READ, None)
    other = "0" if key[-1] != "0" else "1"
    sent = {
        "": "", "x": "x", "last": key[:-1] + other, "first": key[:21] + other + key[22:], "upper": key.upper(),
        "id": "samesku_" + "0" * 12 + key[20:], "digest": stored.digest, "huge": key * 500, "latin": key + "\u00e9",
    }[spoil]  # fmt: skip
    for headers in ({b"authorization": b"Bearer " + sent.encode("latin-1")}, {b"x-api-key": sent.encode("latin-1")}):
        answer = guarded.app.get("/model", headers=headers)
        if sent == key:
            continue  # the digit was that one by chance
        check_problem(answer, [401], "unauthenticated")
        assert answer.headers["www-authenticate"] == "Bearer"


def test_two_keys_at_once_are_refused(guard: Guard) -> None:
    guarded = guard()
    one, other = guarded.key(), guarded.key()
    check_problem(guarded.app.get("/model", headers={"Authorization": f"Bearer {one}", "X-API-Key": other}), [401])


def test_a_key_in_the_address_is_no_key(guard: Guard) -> None:
    guarded = guard()
    check_problem(guarded.app.get("/model", params={"api_key": guarded.key(), "key": guarded.key()}), [401])


def test_the_last_use_is_noted_at_the_latest_when_the_service_stops(tmp_path: Path) -> None:
    with guarded_app(tmp_path / "data") as guarded:
        key, unused = guarded.key(), guarded.key()
        Caller(guarded.app, key).get("/model")
    with closing(open_keys(tmp_path / "data")) as keys:
        used = {one.id: one.last_used_at is not None for one in keys.stored()}
    assert used == {key.split("_")[1]: True, unused.split("_")[1]: False}


# -- roles -----------------------------------------------------------------------------------------------------


def test_every_call_takes_a_key_or_is_open_on_purpose(guard: Guard) -> None:
    guarded = guard()
    guarded.key()
    for method, path in operations(guarded):
        answer = guarded.app.request(method, path)
        if path in OPEN:
            assert answer.status_code == 200, path
        else:
            check_problem(answer, [401], "unauthenticated")
    check_problem(guarded.app.get("/nowhere"), [401], "unauthenticated")
    for path in OPEN:
        assert guarded.app.get(path).status_code == 200


WRITES = {("POST", "/catalog"), ("POST", "/catalog/batch"), ("DELETE", "/catalog/p"), ("POST", "/feedback")}


@pytest.mark.parametrize("role", list(Role))
def test_a_role_covers_its_calls_and_no_others(guard: Guard, role: Role) -> None:
    guarded = guard()
    caller = guarded.new(role.value)
    for method, path in operations(guarded):
        if path in OPEN:
            continue
        metrics, write = path == "/metrics", (method, path) in WRITES
        allowed = {Role.ADMIN: True, Role.METRICS: metrics, Role.WRITE: not metrics, Role.READ: not metrics and not write}
        status = caller.request(method, path).status_code
        assert (status == 403) == (not allowed[role]), (method, path, status)
    for method in ("PUT", "PATCH", "OPTIONS", "BREW"):
        assert (caller.request(method, "/catalog/p").status_code == 403) == (role is not Role.ADMIN)


def test_an_unknown_call_takes_the_highest_role() -> None:
    assert needed_role("POST", "/jobs") is Role.ADMIN
    assert needed_role("DELETE", "/catalog") is Role.ADMIN


async def _call(app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
    await app(scope, receive, send)


@pytest.mark.parametrize("headers", [[], [(b"x-api-key", b"nonsense")]])
def test_a_stranger_is_refused_before_the_body_is_asked_for(guard: Guard, headers: list[tuple[bytes, bytes]]) -> None:
    guarded = guard()
    guarded.key()
    sent: list[Message] = []

    async def receive() -> Message:
        raise AssertionError("somebody reads the body")

    async def send(message: Message) -> None:
        sent.append(message)

    scope: Scope = {"type": "http", "method": "POST", "path": "/catalog", "headers": headers, "query_string": b""}
    asyncio.run(_call(guarded.app.app, scope, receive, send))
    assert sent[0]["status"] == 401


# -- rate ------------------------------------------------------------------------------------------------------


def test_a_key_that_asks_too_often_waits_and_others_do_not(guard: Guard) -> None:
    guarded = guard(rate_limit_per_s=0.001, rate_limit_burst=3)
    eager, other = guarded.new(), guarded.new()
    answers = [eager.get("/model") for _ in range(5)]
    assert [one.status_code for one in answers] == [200, 200, 200, 429, 429]
    check_problem(answers[-1], [429], "rate_limited")
    assert int(answers[-1].headers["retry-after"]) >= 900
    assert other.get("/model").status_code == 200
    assert eager.get("/healthz").status_code == eager.get("/readyz").status_code == 200


def test_a_batch_counts_as_its_items(guard: Guard) -> None:
    guarded = guard(rate_limit_per_s=0.001, rate_limit_burst=10)
    caller = guarded.new()
    items = [{"id": str(n), "title": "abc"} for n in range(10)]
    assert len(lines(caller.post("/catalog/batch", json={"items": items}))) == 10
    check_problem(caller.get("/model"), [429], "rate_limited")


# -- audit -----------------------------------------------------------------------------------------------------


def audited(caplog: pytest.LogCaptureFixture) -> list[tuple[Any, ...]]:
    records = [vars(one) for one in caplog.records if one.name == "app.audit"]
    return [tuple(one[name] for name in ("action", "catalog", "product", "outcome")) for one in records]


def test_every_change_is_one_line_with_its_key(guard: Guard, caplog: pytest.LogCaptureFixture) -> None:
    guarded = guard()
    key = guarded.key("write", "shop")
    caller = Caller(guarded.app, key)
    with caplog.at_level(logging.INFO, "app"):
        for title in ("abc", "abd"):
            put(caller, "p", title, catalog="shop")
        put(caller, "q", "", catalog="shop")
        put(caller, "x" * 300, "abc", catalog="shop")
        items = [{"id": "p", "title": "abc"}, {"id": "r", "title": "abc"}, {"id": "s"}, {"title": "t"}]
        caller.post("/catalog/batch", json={"items": items, "catalog": "shop"})
        caller.post("/feedback", json={"sides": [{"id": "p"}, {"id": "r"}], "same": True, "by": "a", "catalog": "shop"})
        caller.delete("/catalog/r", params={"catalog": "shop"})
        caller.delete("/catalog/r", params={"catalog": "shop"})
        ask(caller, "abc", catalog="shop")
    assert audited(caplog) == [
        ("index", "shop", "p", "created"),
        ("index", "shop", "p", "replaced"),
        ("index", "shop", "x" * 200, "invalid_input"),
        ("index", "shop", "p", "replaced"),
        ("index", "shop", "r", "created"),
        ("index", "shop", "s", "empty_product"),
        ("index", "shop", None, "invalid_input"),
        ("feedback", "shop", "p", "stored"),
        ("delete", "shop", "r", "deleted"),
        ("delete", "shop", "r", "product_not_found"),
    ]
    text = "\n".join(str(vars(record)) for record in caplog.records)
    assert key.split("_")[1] in text
    assert key.split("_")[2] not in text
    requests = [vars(one) for one in caplog.records if one.getMessage() == "request"]
    assert {one["key"] for one in requests} == {key.split("_")[1]}


def test_the_audit_does_not_depend_on_the_log_level() -> None:
    from app.telemetry import configure_logging

    root = logging.getLogger()
    before = root.handlers, root.level, logging.getLogger("app").level
    try:
        configure_logging("error", "json")
        assert logging.getLogger("app.audit").isEnabledFor(logging.INFO)
        assert not logging.getLogger("app.api").isEnabledFor(logging.INFO)
    finally:
        root.handlers = before[0]
        root.setLevel(before[1])
        logging.getLogger("app").setLevel(before[2])
        logging.getLogger("app.audit").setLevel(logging.NOTSET)
        logging.getLogger("uvicorn.error").setLevel(logging.NOTSET)


def test_keys_that_come_and_go_are_logged_without_their_secret(guard: Guard, caplog: pytest.LogCaptureFixture) -> None:
    guarded = guard()
    with caplog.at_level(logging.INFO, "app"):
        guarded.app.get("/model")
        key = guarded.key("read", "a")
        guarded.app.get("/model")
        guarded.keys.revoke(key.split("_")[1])
        guarded.app.get("/model")
    told = [(one.getMessage(), vars(one)["key"]) for one in caplog.records if one.name == "app.api.keyring"]
    assert told == [("API key created", key.split("_")[1]), ("API key revoked", key.split("_")[1])]


# -- browsers --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/model", "/nowhere", "/healthz", "/catalog/p/image", "/docs"])
def test_every_answer_has_the_security_headers(start: Start, path: str) -> None:
    client = start()
    put(client, "p", None, RED)
    headers = client.get(path).headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "DENY"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert ("script-src" in headers["content-security-policy"]) == (path == "/docs")
    assert headers["cache-control"] == ("no-cache" if "image" in path else "no-store")
    assert "server" not in headers


SHOP = "https://shop.example"


def test_cors_is_closed_unless_a_page_is_named(guard: Guard) -> None:
    guarded = guard()
    caller = guarded.new()
    shown = caller.get("/model", headers={"Origin": SHOP})
    assert shown.status_code == 200  # who has a key is no page by accident; the browser hides the answer
    assert not any("access-control" in name for name in shown.headers)
    preflight = {"Origin": SHOP, "Access-Control-Request-Method": "POST"}
    answer = guarded.app.request("OPTIONS", "/match", headers=preflight)
    assert answer.status_code == 401
    assert not any("access-control" in name for name in answer.headers)


def test_a_named_page_may_call(guard: Guard) -> None:
    guarded = guard(cors_origins=(SHOP,))
    preflight = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    answer = guarded.app.request("OPTIONS", "/match", headers=preflight | {"Origin": SHOP})
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == SHOP
    assert guarded.new().get("/model", headers={"Origin": SHOP}).headers["access-control-allow-origin"] == SHOP
    evil = guarded.app.request("OPTIONS", "/match", headers=preflight | {"Origin": "https://evil.example"})
    assert evil.status_code == 400
    assert "access-control-allow-origin" not in evil.headers


@pytest.mark.parametrize("origin", ["*", "shop.example", "https://shop.example/", "https://shop.example/a", "null", ""])
def test_an_origin_must_be_one(origin: str) -> None:
    with pytest.raises(ValueError, match="cors_origins"):
        Settings(cors_origins=(origin,))


def test_pages_of_other_sites_cannot_use_a_service_without_keys(guard: Guard) -> None:
    guarded = guard()
    for origin in ("https://evil.example", "null", "http://127.0.0.1:9999"):
        check_problem(guarded.app.post("/catalog", data={"id": "p"}, headers={"Origin": origin}), [403], "forbidden")
    assert guarded.app.get("/model", headers={"Origin": "http://127.0.0.1"}).status_code == 200  # its own pages
    # a name of theirs that was made to lead here
    check_problem(guarded.app.get("/model", headers={"Host": "evil.example"}), [403], "forbidden")
    for host in ("localhost:8000", "127.0.0.1:8000", "[::1]:8000"):
        assert guarded.app.get("/model", headers={"Host": host}).status_code == 200
    key = guarded.key()
    assert guarded.app.get("/model", headers={"Host": "shop.example", "X-API-Key": key}).status_code == 200


# -- starting --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "[::1]", "localhost", "LOCALHOST"])
def test_loopback_addresses_are_known(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "10.0.0.1", "example.org", "127.0.0.1.example.org", "localhost.x"])
def test_other_addresses_are_not_loopback(host: str) -> None:
    assert not is_loopback(host)


@pytest.mark.parametrize(
    ("host", "allowed", "has_keys", "served"),
    [
        ("127.0.0.1", False, False, "127.0.0.1"),
        ("0.0.0.0", False, False, "127.0.0.1"),
        ("0.0.0.0", True, False, "0.0.0.0"),
        ("0.0.0.0", False, True, "0.0.0.0"),
        ("localhost", False, False, "localhost"),
    ],
)
def test_without_keys_only_this_machine_is_listened_to(
    host: str, allowed: bool, has_keys: bool, served: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "app"):
        kept = kept_to_itself(Settings(host=host, allow_anonymous=allowed), has_keys)
    assert kept.host == served
    assert ("there is no API key" in caplog.text) == (not has_keys)
    assert ("set SAMESKU_ALLOW_ANONYMOUS=true" in caplog.text) == (served != host)
