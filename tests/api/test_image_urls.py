"""Photos that are fetched from other machines: like uploads where that is allowed, and no way into any network."""

from __future__ import annotations

import base64
import gzip
import ipaddress
import json
import logging
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import anyio
import pytest
from fastapi.testclient import TestClient

from app.api.fetching import MAX_REDIRECTS, WAITING_FOR_ONE, Fetcher, FetchLimits
from app.core.photo_address import FetchRules
from app.errors import ImageUrlUnreachable, PayloadTooLarge
from tests.api.calls import (
    BLUE,
    GREEN,
    RED,
    Response,
    ask,
    check_problem,
    csv_file,
    found,
    jsonl_file,
    lines,
    put,
    without_time,
    zip_file,
)
from tests.api.conftest import PATIENCE_S, Serve, Start
from tests.photo_server import LOOPBACK, Names, PhotoServer, answer, endless, may_fetch, photo_server, redirect

HOST = "photos.test"
FETCH_NETWORKS = (ipaddress.ip_network("127.0.0.0/8"),)
SOON_S = 0.4  # of patience, where an answer never ends


@pytest.fixture(scope="module")
def server() -> Iterator[PhotoServer]:
    """A machine with photos, and with all that is no photo."""
    with photo_server(ANSWERS) as one:
        yield one


@pytest.fixture
def names() -> Names:
    return Names(
        {HOST: [LOOPBACK], "other.test": [LOOPBACK], "private.test": ["10.1.2.3"], "mixed.test": [LOOPBACK, "10.1.2.3"]}
    )


@pytest.fixture
def fetching(start: Start, server: PhotoServer, names: Names) -> Callable[..., TestClient]:
    """Starts an app that may fetch from that machine."""
    server.requests.clear()

    def start_one(**settings: Any) -> TestClient:
        allowed = may_fetch(server, HOST, "other.test", "private.test", "mixed.test", LOOPBACK)
        return start(**({"resolve": names} | allowed | settings))

    return start_one


def url(server: PhotoServer, path: str = "/red.png", host: str = HOST) -> str:
    return f"http://{host}:{server.port}{path}"


def every_call(client: TestClient, address: str) -> list[dict[str, Any]]:
    """The problems of all calls that take an address."""
    item = {"id": "new", "title": "abc", "image_url": address}
    manifests = [csv_file("id,title,image_url", f"new,abc,{address}"), jsonl_file(item)]
    answers = [
        ask(client, "abc", image_url=address),
        put(client, "new", "abc", image_url=address),
        client.post("/compare", data={"left_title": "abc", "right_image_url": address}),
        client.post("/compare", data={"left_image_url": address, "right_title": "abc"}),
    ]
    problems = [one.json() for one in answers]
    assert all(one.headers["content-type"] == "application/problem+json" for one in answers)
    for call in ("/match/batch", "/catalog/batch"):
        for sent in (item, {"id": "new", "image_urls": [address]}):
            problems += [line["error"] for line in lines(client.post(call, json={"items": [sent]}))]
        for manifest in manifests:
            problems += [line["error"] for line in lines(client.post(call, files={"manifest": manifest}))]
    assert client.get("/catalog").json()["total"] == 0
    return problems


# -- off, and on -----------------------------------------------------------------------------------------------


def test_nothing_is_fetched_unless_a_setting_says_so(start: Start) -> None:
    names = Names({HOST: [LOOPBACK]})
    for problem in every_call(start(resolve=names), f"http://{HOST}/red.png"):
        assert (problem["status"], problem["code"]) == (422, "image_url_refused")
        assert "SAMESKU_IMAGE_URLS" in problem["detail"]
    assert names.asked == []


def test_a_fetched_photo_is_like_an_uploaded_one(fetching: Callable[..., TestClient], server: PhotoServer) -> None:
    client = fetching()
    assert put(client, "red", "abc", image_url=url(server)).status_code == 201
    assert put(client, "red", "abc", image_url=url(server)).status_code == 200
    assert put(client, "green", None, GREEN).status_code == 201
    assert client.get("/catalog/red/image").content == RED
    assert client.get("/catalog").json()["total"] == 2
    for title in (None, "abc"):
        fetched, uploaded = ask(client, title, image_url=url(server)), ask(client, title, RED)
        assert without_time(fetched.json()) == without_time(uploaded.json())
        assert found(fetched) == ["red"]
    fields = {"left_image_url": url(server), "right_image_url": url(server, "/green.png")}
    files = {"left_image": ("l", RED), "right_image": ("r", GREEN)}
    fetched, uploaded = client.post("/compare", data=fields), client.post("/compare", files=files)
    assert without_time(fetched.json()) == without_time(uploaded.json())


def test_uploads_come_first_then_addresses_in_their_order(fetching: Callable[..., TestClient], server: PhotoServer) -> None:
    client = fetching()
    data: dict[str, Any] = {"id": "p", "image_url": [url(server, "/green.png"), url(server, "/blue.png")]}
    made = client.post("/catalog", data=data, files={"image": ("a.png", RED)})
    assert [client.get(one).content for one in made.json()["image_urls"]] == [RED, GREEN, BLUE]
    items = [{"id": "q", "image": base64.b64encode(RED).decode(), "image_urls": data["image_url"]}]
    assert lines(client.post("/catalog/batch", json={"items": items}))[0]["status"] == "created"
    assert [client.get(f"/catalog/q/image?position={n}").content for n in range(3)] == [RED, GREEN, BLUE]


@pytest.mark.parametrize("form", ["json", "csv", "jsonl"])
def test_batches_fetch_too_and_a_bad_address_costs_its_line(
    fetching: Callable[..., TestClient], server: PhotoServer, form: str
) -> None:
    client = fetching()
    items = [
        {"id": "a", "title": "abc", "image_url": url(server)},
        {"id": "b", "title": "abc", "image_url": url(server, "/missing.png")},
        {"id": "c", "title": "abd", "image_url": "ftp://photos.test/a"},
        {"id": "d", "title": "xyz", "image_url": url(server, "/blue.png")},
    ]
    rows = [",".join(item.values()) for item in items]
    forms: dict[str, dict[str, Any]] = {
        "json": {"json": {"items": items}},
        "csv": {"files": {"manifest": csv_file("id,title,image_url", *rows)}},
        "jsonl": {"files": {"manifest": jsonl_file(*items)}},
    }
    sent = forms[form]
    codes = [one.get("status") or one["error"]["code"] for one in lines(client.post("/catalog/batch", **sent))]
    assert codes == ["created", "image_url_unreachable", "image_url_refused", "created"]
    assert client.get("/catalog/a").json()["attributes"] == {}
    assert client.get("/catalog/d/image").content == BLUE
    codes = [one["matches"][0]["id"] if "matches" in one else "-" for one in lines(client.post("/match/batch", **sent))]
    assert codes == ["a", "-", "-", "d"]


def test_a_manifest_may_name_addresses_alone_several_and_beside_a_zip(
    fetching: Callable[..., TestClient], server: PhotoServer
) -> None:
    client = fetching()
    pair = f"{url(server)}|{url(server, '/green.png')}"
    assert lines(client.post("/catalog/batch", files={"manifest": csv_file("id,image_url", f"a,{pair}")}))[0]["status"]
    assert client.get("/catalog/a/image?position=1").content == GREEN
    form = {"manifest": csv_file("id,image,image_url", f"b,x.png,{pair}", "c,x.png,"), "photos": zip_file({"x.png": BLUE})}
    assert [one["status"] for one in lines(client.post("/catalog/batch", files=form))] == ["created", "created"]
    assert [len(client.get(f"/catalog/{name}").json()["image_urls"]) for name in "bc"] == [3, 1]


def test_there_is_one_photo_or_none_in_a_query(fetching: Callable[..., TestClient], server: PhotoServer) -> None:
    client = fetching()
    check_problem(ask(client, None, RED, image_url=url(server)), [422], "invalid_input")
    data = {"left_image_url": url(server), "right_title": "a"}
    check_problem(client.post("/compare", data=data, files={"left_image": ("l", RED)}), [422], "invalid_input")
    check_problem(ask(client, None, image_url=[url(server)] * 2), [422])
    for item in ({"image_urls": [url(server)] * 2}, {"image": base64.b64encode(RED).decode(), "image_url": url(server)}):
        (line,) = lines(client.post("/match/batch", json={"items": [item]}))
        assert line["error"]["code"] == "invalid_input"
    check_problem(client.post("/catalog", data={"id": "p", "image_url": [url(server)] * 21}), [422], "invalid_input")
    (line,) = lines(client.post("/catalog/batch", json={"items": [{"id": "p", "image_urls": [url(server)] * 21}]}))
    assert line["error"]["code"] == "invalid_input"
    check_problem(put(client, "bad/", None, image_url=url(server)), [422], "invalid_input")
    for call, field in (("/match", "image_url"), ("/catalog", "image_url"), ("/compare", "right_image_url")):
        check_problem(client.post(call, data={"id": "p", field: ""} if call == "/catalog" else {field: ""}), [422])
    assert server.requests == []


def test_verify_looks_at_fetched_photos(fetching: Callable[..., TestClient], server: PhotoServer) -> None:
    client = fetching()
    put(client, "red", None, RED)
    assert found(ask(client, None, image_url=url(server), verify="true")) == ["red"]


# -- what is asked, and of whom --------------------------------------------------------------------------------


def test_a_request_carries_nothing_of_ours(
    fetching: Callable[..., TestClient], server: PhotoServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://10.0.0.1:3128")
    client = fetching()
    address = url(server, "/cookie?to=/red.png")
    answer = client.post("/match", data={"image_url": address}, headers={"Authorization": "Bearer secret", "Cookie": "a=b"})
    assert answer.status_code == 200
    assert server.paths == ["/cookie?to=/red.png", "/red.png"]
    for request in server.requests:
        head = request.decode().split("\r\n")
        assert {line.split(":")[0] for line in head[1:] if line} == {
            "Host",
            "User-Agent",
            "Accept",
            "Accept-Encoding",
            "Connection",
        }
        assert f"Host: {HOST}:{server.port}" in head
        assert "Accept-Encoding: identity" in head


def test_a_name_is_looked_up_once_and_its_address_is_what_is_asked(
    fetching: Callable[..., TestClient], server: PhotoServer, names: Names
) -> None:
    names.known[HOST] = [[LOOPBACK], ["10.1.2.3"]]  # what it says the second time
    client = fetching()
    assert ask(client, None, image_url=url(server)).status_code == 200
    assert names.asked == [HOST]
    check_problem(ask(client, None, image_url=url(server)), [422], "image_url_unreachable")
    assert len(server.requests) == 1


def test_one_private_address_of_a_name_is_too_many(
    fetching: Callable[..., TestClient], server: PhotoServer, names: Names
) -> None:
    client = fetching()
    for known in (
        [LOOPBACK, "10.1.2.3"],
        ["10.1.2.3", LOOPBACK],
        [LOOPBACK, "::ffff:127.0.0.1"],
        [LOOPBACK, "no address"],
        [],
    ):
        names.known["mixed.test"] = known
        check_problem(ask(client, None, image_url=url(server, host="mixed.test")), [422], "image_url_unreachable")
    assert server.requests == []


def test_the_next_address_of_a_name_is_tried(fetching: Callable[..., TestClient], server: PhotoServer, names: Names) -> None:
    names.known[HOST] = ["127.0.0.9", LOOPBACK]  # nobody listens at the first one
    assert ask(fetching(), None, image_url=url(server)).status_code == 200


def test_without_settings_for_it_no_private_machine_is_asked(start: Start, server: PhotoServer) -> None:
    server.requests.clear()
    names = Names({HOST: [LOOPBACK], "public.test": ["93.184.216.34"]})
    client = start(resolve=names, image_urls=True, image_url_ports=(80, server.port))
    for host in (HOST, LOOPBACK, "[::1]", "[::ffff:127.0.0.1]", "169.254.169.254"):
        check_problem(ask(client, None, image_url=url(server, host=host)), [422], "image_url_unreachable")
    for host in ("2130706433", "0x7f.1", "127.1", "localhost@photos.test"):
        check_problem(ask(client, None, image_url=url(server, host=host)), [422], "image_url_refused")
    check_problem(ask(client, None, image_url=f"http://{HOST}:22/"), [422], "image_url_refused")
    assert server.requests == []
    assert names.asked == [HOST]


def test_names_are_looked_up_as_the_machine_does(serve: Serve, server: PhotoServer) -> None:
    server.requests.clear()
    hosts, networks = ("localhost", "nobody.invalid"), ("127.0.0.0/8", "::1/128")
    allowed = {"image_urls": True, "image_url_ports": (server.port,)}
    client = serve(**allowed, image_url_hosts=hosts, image_url_networks=networks)
    put(client, "red", None, RED)
    assert found(ask(client, None, image_url=url(server, host="localhost"))) == ["red"]
    check_problem(ask(client, None, image_url=url(server, host="nobody.invalid")), [422], "image_url_unreachable")
    assert len(server.requests) == 1


def test_the_name_of_this_machine_is_not_public(start: Start, server: PhotoServer) -> None:
    server.requests.clear()
    client = start(image_urls=True, image_url_ports=(server.port,))
    check_problem(ask(client, None, image_url=url(server, host="localhost")), [422], "image_url_unreachable")
    assert server.requests == []


# -- redirects -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "303 See Other", "307 Temporary", "308 Permanent"])
def test_redirects_are_followed(fetching: Callable[..., TestClient], server: PhotoServer, names: Names, status: str) -> None:
    server.answers["/moved"] = redirect(url(server, "/red.png", "other.test"), status)
    assert ask(fetching(), None, image_url=url(server, "/moved")).status_code == 200
    assert names.asked == [HOST, "other.test"]
    assert b"Host: other.test" in server.requests[-1]


def test_redirects_end(fetching: Callable[..., TestClient], server: PhotoServer) -> None:
    client = fetching()
    for hops in range(MAX_REDIRECTS + 3):
        server.answers[f"/hop/{hops + 1}"] = redirect(f"/hop/{hops}")
    server.answers["/hop/0"] = answer(RED)
    assert ask(client, None, image_url=url(server, f"/hop/{MAX_REDIRECTS}")).status_code == 200
    server.requests.clear()
    check_problem(ask(client, None, image_url=url(server, f"/hop/{MAX_REDIRECTS + 1}")), [422], "image_url_unreachable")
    assert len(server.requests) == MAX_REDIRECTS + 1


@pytest.mark.parametrize(
    "location",
    [
        "http://private.test:{port}/red.png", "http://mixed.test:{port}/red.png", "http://unlisted.test:{port}/red.png",
        "http://127.0.0.1:22/", "http://10.1.2.3/", "http://169.254.169.254/latest/meta-data/", "http://2130706433:{port}/red.png",
        "file:///etc/passwd", "ftp://photos.test/", "//user@photos.test:{port}/red.png", "http://[::ffff:127.0.0.1]:{port}/red.png",
        "http://[", "", "http://photos.test:{port}/a b",
    ],
)  # fmt: skip
def test_a_redirect_reaches_nothing_that_could_not_be_named(
    fetching: Callable[..., TestClient], server: PhotoServer, location: str
) -> None:
    server.answers["/away"] = redirect(location.format(port=server.port))
    check_problem(ask(fetching(), None, image_url=url(server, "/away")), [422], "image_url_unreachable")
    assert set(server.paths) == {"/away"}


# -- answers ---------------------------------------------------------------------------------------------------

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
ANSWERS: dict[str, Any] = {
    "/red.png": answer(RED),
    "/green.png": answer(GREEN, content_type="text/html"),
    "/blue.png": CHUNKED + b"%x\r\n%b\r\n0\r\n\r\n" % (len(BLUE), BLUE),
    "/to-the-end.png": b"HTTP/1.0 200 OK\r\n\r\n" + RED,
    "/hints": b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" * 3 + answer(RED),
    "/cookie?to=/red.png": answer(b"", "302 Found", location="/red.png", set_cookie="a=b"),
    "/page": answer(b"<html>"),
}
FAILING: dict[str, Any] = {
    "404": answer(RED, "404 Not Found"),
    "500": answer(RED, "500 Oops"),
    "401": answer(RED, "401 Who", www_authenticate="Basic"),
    "204": b"HTTP/1.1 204 No Content\r\n\r\n",
    "206": answer(RED, "206 Partial Content"),
    "304": answer(b"", "304 Not Modified"),
    "a redirect to nowhere": answer(b"", "302 Found"),
    "gzip": answer(gzip.compress(RED), content_encoding="gzip"),
    "shorter than it says": answer(RED, content_length="5000"),
    "two lengths": answer(RED, content_length=f"{len(RED)}\r\nContent-Length: 5"),
    "a length that is no number": answer(RED, content_length="-1"),
    "chunks that are cut off": CHUNKED + b"fff\r\nabc",
    "chunks that are none": CHUNKED + b"xyz\r\nabc\r\n",
    "an unknown encoding": answer(RED, transfer_encoding="gzip, chunked"),
    "no HTTP": b"220 smtp ready\r\n",
    "nothing": b"",
    "half a head": b"HTTP/1.1 200 OK\r\nContent-",
    "another protocol": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
}
ENDLESS: dict[str, Any] = {
    "headers": endless(b"HTTP/1.1 200 OK\r\n", b"X-More: yes\r\n" * 500),
    "a header": endless(b"HTTP/1.1 200 OK\r\nX-Long: "),
    "hints": endless(b"", b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" * 100),
    "chunks of one byte": endless(CHUNKED, b"1\r\nx\r\n" * 2000),
    "a chunk's extension": endless(CHUNKED + b"5;"),
    "trailers": endless(CHUNKED + b"0\r\n", b"X-More: yes\r\n" * 500),
}
TOO_LARGE: dict[str, Any] = {
    "it says so": answer(RED, content_length="999999999999"),
    "it says less": endless(b"HTTP/1.1 200 OK\r\nContent-Length: 3000000\r\n\r\n"),
    "it says nothing": endless(b"HTTP/1.1 200 OK\r\n\r\n"),
    "in chunks": endless(CHUNKED, b"4000\r\n" + b"x" * 0x4000 + b"\r\n"),
}


@pytest.mark.parametrize("path", ["/red.png", "/green.png", "/blue.png", "/to-the-end.png", "/hints"])
def test_photos_come_in_every_form_of_http(fetching: Callable[..., TestClient], server: PhotoServer, path: str) -> None:
    assert ask(fetching(), None, image_url=url(server, path)).status_code == 200


def test_what_is_no_photo_is_refused_like_an_upload(fetching: Callable[..., TestClient], server: PhotoServer) -> None:
    client = fetching()
    fetched, uploaded = ask(client, None, image_url=url(server, "/page")), ask(client, None, b"<html>")
    check_problem(fetched, [422], "invalid_image")
    assert fetched.json()["detail"] == uploaded.json()["detail"]


@pytest.mark.parametrize("sent", [*FAILING.values(), *ENDLESS.values()], ids=[*FAILING, *ENDLESS])
def test_any_other_answer_is_no_photo(fetching: Callable[..., TestClient], server: PhotoServer, sent: Any) -> None:
    server.answers["/odd"] = sent
    check_problem(ask(fetching(), None, image_url=url(server, "/odd")), [422], "image_url_unreachable")


@pytest.mark.parametrize("sent", TOO_LARGE.values(), ids=TOO_LARGE)
def test_an_answer_is_read_no_further_than_a_photo_may_be_large(
    fetching: Callable[..., TestClient], server: PhotoServer, sent: Any
) -> None:
    server.answers["/large"] = sent
    client = fetching(max_image_bytes=200_000)
    check_problem(ask(client, None, image_url=url(server, "/large")), [413], "payload_too_large")


def test_all_photos_of_a_product_have_no_more_bytes_than_an_upload(
    fetching: Callable[..., TestClient], server: PhotoServer
) -> None:
    server.answers["/some"] = answer(RED + b"\0" * 1000)
    client = fetching(max_request_bytes=3000)
    data = {"id": "p", "image_url": [url(server, "/some")] * 3}
    check_problem(client.post("/catalog", data=data), [413], "payload_too_large")
    assert client.post("/catalog", data=data | {"image_url": [url(server, "/some")] * 2}).status_code == 201


@pytest.mark.parametrize("start_with", [b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n"])
def test_an_answer_that_drips_is_given_up(
    fetching: Callable[..., TestClient], server: PhotoServer, start_with: bytes
) -> None:
    """Each byte comes long before any time limit for a single read."""
    done = threading.Event()

    def drip(connection: socket.socket) -> None:
        connection.sendall(start_with)
        while not done.wait(0.01):
            connection.sendall(b"X")

    server.answers["/slow"] = drip
    try:
        client = fetching(image_url_timeout_s=SOON_S)
        check_problem(ask(client, None, image_url=url(server, "/slow")), [422], "image_url_unreachable")
        server.answers["/slowly"] = redirect("/slow")
        check_problem(ask(client, None, image_url=url(server, "/slowly")), [422], "image_url_unreachable")
    finally:
        done.set()


def test_a_name_server_that_says_nothing_is_given_up(fetching: Callable[..., TestClient], server: PhotoServer) -> None:
    class Silent(Names):
        async def __call__(self, name: str, port: int) -> list[str]:
            await anyio.sleep(PATIENCE_S)
            return []

    client = fetching(resolve=Silent({}), image_url_timeout_s=SOON_S)
    check_problem(ask(client, None, image_url=url(server)), [422], "image_url_unreachable")


# -- what is told ----------------------------------------------------------------------------------------------


def test_the_answer_does_not_say_why(
    fetching: Callable[..., TestClient], server: PhotoServer, names: Names, caplog: pytest.LogCaptureFixture
) -> None:
    """A name that does not exist, one inside, a closed port, a machine without the photo: all the same to whoever asks."""
    client = fetching(image_url_timeout_s=SOON_S)
    server.answers |= {
        "/garbage": FAILING["no HTTP"],
        "/secret": FAILING["404"],
        "/away": redirect("http://10.1.2.3/secret"),
    }
    server.answers["/hangs"] = endless(b"HTTP/1.1 200 OK\r\n", b"")
    told = set()
    cases: list[tuple[Any, str]] = [
        (socket.gaierror, "/secret"), (["10.1.2.3"], "/secret"), ([LOOPBACK, "10.1.2.3"], "/secret"), ([], "/secret"),
        (["127.0.0.9"], "/secret"), *(([LOOPBACK], path) for path in ("/secret", "/garbage", "/away", "/hangs")),
    ]  # fmt: skip
    with caplog.at_level(logging.INFO):
        for known, path in cases:
            names.known.pop(HOST, None)
            if known is not socket.gaierror:
                names.known[HOST] = known
            problem = ask(client, None, image_url=url(server, path + "?token=secret")).json()
            told.add(json.dumps({name: value for name, value in problem.items() if name != "request_id"}))
    assert len(told) == 1, told
    written = [record for record in caplog.records if record.getMessage() == "a photo was not fetched"]
    assert [vars(record)["host"] for record in written] == [HOST] * len(cases)
    assert len({vars(record)["reason"] for record in written}) > 3  # whoever runs the service does learn why
    assert not any("secret" in str(vars(record)) for record in caplog.records if record.name.startswith("app"))


# -- how many at once ------------------------------------------------------------------------------------------


def test_few_are_fetched_at_once_and_not_too_many_wait(fetching: Callable[..., TestClient], server: PhotoServer) -> None:
    arrived, gate = threading.Semaphore(0), threading.Event()

    def held(connection: socket.socket) -> None:
        arrived.release()
        assert gate.wait(PATIENCE_S)
        connection.sendall(answer(RED))

    server.answers["/held"] = held
    server.most_at_once = 0
    client = fetching(image_url_fetches=2)
    put(client, "red", "abc", RED)
    asked = 2 + 2 * WAITING_FOR_ONE

    def fetch(_: int) -> Response:
        return ask(client, None, image_url=url(server, "/held"))

    with ThreadPoolExecutor(asked + 3) as pool:
        pending = [pool.submit(fetch, n) for n in range(asked + 3)]
        try:
            assert all(arrived.acquire(timeout=PATIENCE_S) for _ in range(2))
            refused = next(_finished(pending))
            assert found(ask(client, "abc", RED)) == ["red"]  # nobody else waits
        finally:
            gate.set()
        codes = sorted(one.result().status_code for one in pending)
    assert codes == [200] * asked + [429] * 3
    check_problem(refused, [429], "overloaded")
    assert int(refused.headers["retry-after"]) >= 1
    assert server.most_at_once == 2


def test_whatever_goes_wrong_a_place_is_given_back(fetching: Callable[..., TestClient], server: PhotoServer) -> None:
    client = fetching(image_url_fetches=1)
    for path in ("/missing", "/page", "/red.png") * 2 * WAITING_FOR_ONE:
        put(client, "p", "\0" if path == "/red.png" else None, image_url=url(server, path))
        client.post("/match/batch", json={"items": [{"image_url": url(server, path), "title": "\0"}]})
    assert ask(client, None, image_url=url(server)).status_code == 200
    assert "error" not in lines(client.post("/match/batch", json={"items": [{"image_url": url(server)}]}))[0]


def _finished(pending: list[Any]) -> Iterator[Response]:
    while True:
        for one in pending:
            if one.done():
                yield one.result()


def test_the_bulk_fetches_in_places_of_its_own(fetching: Callable[..., TestClient], server: PhotoServer) -> None:
    arrived, gate = threading.Event(), threading.Event()

    def held(connection: socket.socket) -> None:
        arrived.set()
        assert gate.wait(PATIENCE_S)
        connection.sendall(answer(RED))

    server.answers["/held"] = held
    client = fetching(image_url_fetches=1)
    items = [{"title": "x"}, *({"image_url": url(server, "/held")} for _ in range(20)), {"title": "y"}]
    with ThreadPoolExecutor(1) as pool:
        bulk = pool.submit(client.post, "/match/batch", json={"items": items})
        try:
            assert arrived.wait(PATIENCE_S)
            assert ask(client, None, image_url=url(server)).status_code == 200
            others = lines(client.post("/match/batch", json={"items": [{"title": "z"}] * 100}))
            assert not any("error" in one for one in others)
        finally:
            gate.set()
        assert not any("error" in one for one in lines(bulk.result()))


# -- TLS -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("uvloop", [False, True])
def test_a_certificate_must_be_trusted_and_for_the_name(uvloop: bool) -> None:
    pem = Path(__file__).parent.parent / "data" / "photos.test.pem"
    own = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    own.load_cert_chain(pem)
    trusting = ssl.create_default_context(cafile=str(pem))
    hosts = (HOST, "other.test")
    names = Names({host: [LOOPBACK] for host in hosts})
    limits = FetchLimits(1000, 1000, PATIENCE_S, 1)

    def fetch(port: int, host: str, tls: ssl.SSLContext | None) -> bytes:
        async def one() -> bytes:
            rules = FetchRules(True, hosts, FETCH_NETWORKS, (port,))
            async with Fetcher(rules, limits, names, tls).photos([f"https://{host}:{port}/red.png"]) as photos:
                return photos[0]

        return anyio.run(one, backend_options={"use_uvloop": uvloop})

    with ExitStack() as stack:
        server = stack.enter_context(photo_server({"/red.png": answer(RED)}, own))
        assert fetch(server.port, HOST, trusting) == RED
        for host, tls in (("other.test", trusting), (HOST, None)):
            with pytest.raises(ImageUrlUnreachable):
                fetch(server.port, host, tls)
        server.answers["/red.png"] = answer(RED * 20)
        with pytest.raises(PayloadTooLarge):
            fetch(server.port, HOST, trusting)
