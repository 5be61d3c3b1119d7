"""Clients that are slow, vanish or do not read, over real sockets: they are ended, leave nothing, and others are served."""

from __future__ import annotations

import asyncio
import gc
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests import swarm
from tests.api.calls import ask, found, put
from tests.api.conftest import PATIENCE_S, Serve, Served
from tests.api.test_overload import asking, read, until
from tests.api.test_streaming import queues
from tests.fakes import photo

MANY = 300
QUICK = {"header_timeout_s": 0.5, "body_grace_s": 0.5, "write_timeout_s": 0.5, "keep_alive_s": 1}
FORM = b"Host: 127.0.0.1\r\nContent-Type: application/x-www-form-urlencoded\r\n"


@contextmanager
def connected(client: Served, sent: bytes = b"") -> Iterator[socket.socket]:
    with socket.create_connection((client.base_url.host, client.base_url.port or 80), timeout=PATIENCE_S) as connection:
        connection.sendall(sent)
        yield connection


def said(connection: socket.socket) -> bytes:
    """What comes until the service closes the connection."""
    text = b""
    try:
        while part := connection.recv(65536):
            text += part
    except ConnectionResetError:
        pass
    return text


def check_said(connection: socket.socket, status: int, code: str) -> None:
    head, _, body = said(connection).partition(b"\r\n\r\n")
    assert head.startswith(f"HTTP/1.1 {status} ".encode()), head
    assert b"connection: close" in head
    assert json.loads(body)["code"] == code


@pytest.mark.parametrize(
    "sent", [b"", b"G", b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Some: "], ids=["nothing", "a letter", "most"]
)
def test_headers_that_do_not_come_are_not_waited_for(serve: Serve, sent: bytes) -> None:
    with connected(serve(**QUICK), sent) as connection:
        check_said(connection, 408, "slow_headers")


def test_headers_in_drops_are_cut_off_although_something_always_comes(serve: Serve) -> None:
    client = serve(**QUICK)
    with connected(client, b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Some: ") as connection:
        connection.settimeout(0.02)
        answer = b""
        while not answer:
            try:
                connection.sendall(b"x")
                answer = connection.recv(65536)
            except TimeoutError:
                continue
    assert answer.startswith(b"HTTP/1.1 408 ")


def test_a_kept_connection_that_asks_slowly_the_second_time_is_closed(serve: Serve) -> None:
    with connected(serve(**QUICK), b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n") as connection:
        text = b""
        while b"alive" not in text:
            text += connection.recv(65536)
        connection.sendall(b"GET /hea")
        check_said(connection, 408, "slow_headers")


@pytest.mark.parametrize("path", ["/match", "/nowhere"])
def test_a_body_that_does_not_come_is_not_waited_for_answered_or_not(serve: Serve, path: str) -> None:
    client = serve(**QUICK)
    request = f"POST {path} HTTP/1.1\r\n".encode() + FORM + b"Content-Length: 100\r\n\r\ntitle=a"
    with connected(client, request) as connection:
        text = said(connection)
        assert text.startswith(b"HTTP/1.1 408 " if path == "/match" else b"HTTP/1.1 404 ")
        assert b"slow_body" in text or path == "/nowhere"
    until(lambda: client.door.inside == 0)


def test_a_connection_whose_body_came_after_the_answer_is_closed_like_others(serve: Serve) -> None:
    with connected(serve(**QUICK), b"POST /nowhere HTTP/1.1\r\n" + FORM + b"Content-Length: 100\r\n\r\n") as connection:
        assert connection.recv(65536).startswith(b"HTTP/1.1 404 ")
        connection.sendall(b"x" * 100)
        assert said(connection) == b""


def test_slow_uploads_hold_no_place_of_a_batch(serve: Serve) -> None:
    client = serve(max_batches=1)
    head = b"POST /match/batch HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n"
    with connected(client, head + b"{"):
        until(lambda: client.door.inside == 1)
        assert client.post("/match/batch", json={"items": [{"title": "abc"}]}).status_code == 200


def test_a_body_may_be_slow_if_it_is_fast_enough(serve: Serve) -> None:
    """It takes twice the time of grace, at 15 times the speed that is asked for: a busy machine may pause the client."""
    client = serve(**QUICK, min_body_bytes_per_s=100)
    request = b"POST /match HTTP/1.1\r\n" + FORM + b"Content-Length: 3006\r\n\r\ntitle="
    with connected(client, request) as connection:
        for _ in range(10):
            connection.sendall(b"a" * 150)
            assert not closed_within(connection, 0.1)
        connection.sendall(b"a" * 1500)
        assert connection.recv(65536).startswith(b"HTTP/1.1 422")  # the title is too long; it was read whole


def test_an_answer_may_be_read_slowly_if_that_is_fast_enough(serve: Serve) -> None:
    client = serve(write_timeout_s=1.5)
    large = photo((1, 2, 3), (40, 40), "BMP") + b"x" * 6_000_000
    put(client, "large", None, large)
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(PATIENCE_S)
        connection.connect((client.base_url.host, client.base_url.port or 80))
        connection.sendall(b"GET /catalog/large/image HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        got = 0
        while got < len(large):  # for longer than it may read nothing
            part = connection.recv(65536)
            assert part
            got += len(part)
            time.sleep(0.002)


def closed_within(connection: socket.socket, seconds: float) -> bool:
    connection.settimeout(seconds)
    try:
        return bool(connection.recv(1) is not None)
    except TimeoutError:
        return False
    finally:
        connection.settimeout(PATIENCE_S)


def test_a_stream_that_nobody_reads_is_cut_off_and_costs_no_memory(serve: Serve) -> None:
    client = serve(**QUICK, max_batch_size=4, max_title_chars=2000)
    for n in range(20):
        put(client, f"p{n}", f"{n} " + "abc " * 400, attributes=json.dumps({"a": "x" * 400}))
    items = json.dumps({"items": [{"title": "abc"}] * 2000, "threshold": -1, "limit": 20}).encode()  # 50 KB a line
    head = f"Host: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: {len(items)}\r\n\r\n"
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(PATIENCE_S)
        connection.connect((client.base_url.host, client.base_url.port or 80))
        connection.sendall(b"POST /match/batch HTTP/1.1\r\n" + head.encode() + items)
        until(lambda: client.door.batches == 1)
        until(lambda: client.door.batches == 0)
    assert not any(queues(client).values())
    assert 'samesku_rejected_total{code="slow_reader"} 1.0' in client.get("/metrics").text


def test_who_sends_a_whole_request_is_served_however_many_only_pretend_to(serve: Serve) -> None:
    client = serve(max_connections=20)
    put(client, "mine", "red abc")
    half = b"POST /match HTTP/1.1\r\n" + FORM + b"Content-Length: 100\r\n\r\ntitle=a"
    with ExitStack() as stack:
        pretenders = [stack.enter_context(connected(client, half if n % 2 else b"GET /")) for n in range(60)]
        with asking(client, "red abc") as honest:
            status, _, text = read(honest)
            assert (status, json.loads(text)["total"]) == (200, 1)
        check_said(pretenders[0], 503, "too_many_connections")
        until(lambda: len(client.server.server_state.connections) <= 20)


def test_too_many_requests_at_once_on_one_connection_are_refused(serve: Serve) -> None:
    with connected(serve(), b"GET /catalog HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" * 1000) as connection:
        assert b"HTTP/1.1 400" in said(connection)


def test_a_few_requests_at_once_on_one_connection_are_answered_in_turn(serve: Serve) -> None:
    last = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
    with connected(serve(), b"GET /catalog HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" * 9 + last) as connection:
        assert said(connection).count(b"HTTP/1.1 200") == 10


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def own_threads() -> list[str]:
    """Without those of the event loop and AnyIO, which begin when they are needed, up to a number, and stay."""
    return sorted(one.name for one in threading.enumerate() if not one.name.startswith(("asyncio_", "uvloop_", "AnyIO")))


def test_hundreds_of_slow_and_vanishing_clients_leave_nothing(serve: Serve) -> None:
    client = serve(**QUICK, max_batch_size=8)
    put(client, "mine", "red abc")
    assert found(ask(client, "red abc")) == ["mine"]
    assert client.post("/match/batch", json={"items": [{"title": "abc"}]}).status_code == 200  # all threads have begun
    files, running = open_files(), own_threads()

    def send() -> None:
        host, port = client.base_url.host, client.base_url.port or 80
        played.update(asyncio.run(swarm.run(host, port, MANY, at_once=100, seed=1, hold_s=1)))

    played: dict[str, int] = {}
    crowd = threading.Thread(target=send)
    crowd.start()
    served = 0
    while crowd.is_alive():
        answer = ask(client, "red abc")
        assert answer.status_code in (200, 429), answer.text
        served += answer.status_code == 200
    crowd.join()
    assert served
    assert sum(played[act.__name__] for act in swarm.ACTS) == MANY
    until(lambda: client.door.inside == 0)
    until(lambda: not any(queues(client).values()))
    door = client.door
    assert (door.places.taken, door.batches, door.body_bytes) == (0, 0, 0)
    gc.collect()
    until(lambda: open_files() <= files + 2)
    until(lambda: own_threads() == running)
    assert found(ask(client, "red abc")) == ["mine"]
    assert client.get("/readyz").status_code == 200
