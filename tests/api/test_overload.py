"""What is let in, what is ended early, and what a stuck worker costs: over real sockets, with gates instead of clocks."""

from __future__ import annotations

import json
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from app.core.product import Floats, Pixels, Upload
from tests.api.calls import BATCH_CALLS, RED, ask, check_problem, found, put
from tests.api.conftest import GATED, PATIENCE_S, GatedEncoder, Serve, Served
from tests.api.test_streaming import body, queues

POLL_S = 0.005


def until(reached: Callable[[], bool]) -> None:
    """Waits for something that another thread brings about."""
    deadline = time.monotonic() + PATIENCE_S
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(POLL_S)


def at_work(client: Served) -> int:
    """Requests that hold a place, in the service itself."""
    return client.door.places.taken


@contextmanager
def asking(client: httpx.Client, title: str, path: str = "/match", **headers: str) -> Iterator[socket.socket]:
    """Sends a whole request over a socket of its own, whose answer nobody has read yet."""
    url = httpx.URL(str(client.base_url))
    sent = f"title={title}".encode() if path == "/match" else json.dumps({"items": [{"id": "p", "title": title}]}).encode()
    kind = "application/x-www-form-urlencoded" if path == "/match" else "application/json"
    lines = [f"POST {path} HTTP/1.1", "Host: 127.0.0.1", f"Content-Type: {kind}", f"Content-Length: {len(sent)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    with socket.create_connection((url.host, url.port or 80), timeout=PATIENCE_S) as connection:
        connection.sendall("\r\n".join([*lines, "", ""]).encode() + sent)
        yield connection


def read(connection: socket.socket) -> tuple[int, dict[str, str], bytes]:
    """Reads an answer up to the end of the connection, or of its announced length."""
    with connection.makefile("rb") as stream:
        status = int(stream.readline().split()[1])
        headers: dict[str, str] = {}
        while line := stream.readline().strip().decode():
            name, _, value = line.partition(": ")
            headers[name.lower()] = value
        return status, headers, stream.read(int(headers.get("content-length", "0")))


class Photos(GatedEncoder):
    """Photos wait at the gate, too, if `closed` says so; counts what the towers see."""

    def __init__(self) -> None:
        super().__init__()
        self.closed = threading.Event()
        self.titles: list[str] = []
        self.photos_read = 0

    def read_photo(self, data: bytes) -> tuple[Upload, Pixels]:
        self.photos_read += 1
        if self.closed.is_set():
            self.reached.set()
            assert self.gate.wait(PATIENCE_S)
        return super().read_photo(data)

    def embed_titles(self, titles: Sequence[str]) -> Floats:
        self.titles += titles
        return super().embed_titles(titles)


@pytest.fixture
def encoder() -> Iterator[Photos]:
    one = Photos()
    yield one
    one.gate.set()


# -- who is let in ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/match", "/compare", "/catalog"])
def test_without_a_place_a_request_is_refused_before_its_body_is_sent(serve: Serve, encoder: Photos, path: str) -> None:
    client = serve(encoder, max_at_work=1)
    with asking(client, GATED) as first:
        assert encoder.reached.wait(PATIENCE_S)
        with socket.create_connection((client.base_url.host, client.base_url.port or 80), timeout=PATIENCE_S) as other:
            head = "Host: x\r\nContent-Type: multipart/form-data; boundary=x\r\nContent-Length: 1000000"
            other.sendall(f"POST {path} HTTP/1.1\r\n{head}\r\nExpect: 100-continue\r\n\r\n".encode())
            status, headers, text = read(other)
        assert (status, json.loads(text)["code"]) == (429, "overloaded")
        assert int(headers["retry-after"]) >= 1
        for path_of_others in ("/healthz", "/metrics", "/catalog", "/model"):
            assert client.get(path_of_others).status_code == 200
        assert 'samesku_rejected_total{code="overloaded"} 1.0' in client.get("/metrics").text
        encoder.gate.set()
        assert read(first)[0] == 200
    assert ask(client, "title").status_code == 200


def test_bodies_that_come_late_find_a_place_or_are_told(serve: Serve, encoder: Photos) -> None:
    client = serve(encoder, max_at_work=1)
    sent = b"title=abc"
    head = f"Host: x\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: {len(sent)}"
    with socket.create_connection((client.base_url.host, client.base_url.port or 80), timeout=PATIENCE_S) as late:
        late.sendall(f"POST /match HTTP/1.1\r\n{head}\r\n\r\n".encode() + sent[:5])
        with asking(client, GATED) as first:  # an upload holds no place
            assert encoder.reached.wait(PATIENCE_S)
            late.sendall(sent[5:])
            status, headers, text = read(late)
            assert (status, json.loads(text)["code"]) == (429, "overloaded")
            assert int(headers["retry-after"]) >= 1
            encoder.gate.set()
            assert read(first)[0] == 200
    assert ask(client, "title").status_code == 200


def test_batches_are_as_many_as_may_be_and_are_not_refused_by_single_requests(serve: Serve, encoder: Photos) -> None:
    client = serve(encoder, max_at_work=1, max_batches=1, max_batch_size=2, max_queue=4)
    with ThreadPoolExecutor(1) as pool:
        batch = pool.submit(client.post, "/match/batch", **body("JSON", ["one", GATED, *["more"] * 20]))
        assert encoder.reached.wait(PATIENCE_S)
        check_problem(client.post("/match/batch", **body("JSON", ["one"])), [429], "overloaded")
        with asking(client, "single") as single:
            until(lambda: "single" in encoder.titles or queues(client)["encode"] > 0)
            check_problem(ask(client, "another"), [429], "overloaded")
            encoder.gate.set()
            assert read(single)[0] == 200
        answered = [json.loads(line) for line in batch.result().text.splitlines()]
    assert [one["index"] for one in answered] == list(range(22))
    assert not any("error" in one for one in answered)


def test_bodies_have_so_much_room_together(serve: Serve) -> None:
    client = serve(max_body_bytes=10_000)
    check_problem(ask(client, "title", b"x" * 20_000), [429], "overloaded")
    check_problem(client.post("/match/batch", content=b"x" * 20_000, headers={"content-type": "application/json"}), [429])
    assert ask(client, "title", RED).status_code == 200


# -- deadlines and callers who go ------------------------------------------------------------------------------


def test_a_request_whose_time_is_over_is_told_and_dropped(serve: Serve, encoder: Photos) -> None:
    client = serve(encoder)
    with asking(client, GATED) as first:
        assert encoder.reached.wait(PATIENCE_S)
        with asking(client, "too late", X_Request_Timeout_Ms="50") as second:
            status, _, text = read(second)
        assert (status, json.loads(text)["code"]) == (504, "deadline_exceeded")
        encoder.gate.set()
        assert read(first)[0] == 200
    assert ask(client, "title").status_code == 200
    assert "too late" not in encoder.titles


def test_the_setting_bounds_what_is_asked_for(serve: Serve, encoder: Photos) -> None:
    client = serve(encoder, request_timeout_s=0.05)
    with asking(client, GATED, X_Request_Timeout_Ms="60000") as one:
        assert read(one)[0] == 504


@pytest.mark.parametrize("sent", ["0", "-1", "1.5", "soon", "", "86400001", "9" * 30])
def test_a_timeout_that_is_none_is_refused(serve: Serve, sent: str) -> None:
    client = serve()
    check_problem(client.get("/catalog", headers={"X-Request-Timeout-Ms": sent}), [422], "invalid_input")


@pytest.mark.parametrize("call", BATCH_CALLS)
def test_a_batch_whose_time_is_over_says_where_to_go_on(serve: Serve, call: str) -> None:
    encoder = Photos()
    client = serve(encoder, max_batch_size=2)
    titles = [f"title {n}" for n in range(40)]
    answer = client.post(call, **body("JSON", titles), headers={"X-Request-Timeout-Ms": "1"})
    *done, last = (json.loads(line) for line in answer.text.splitlines())
    assert last["error"]["code"] == "deadline_exceeded"
    assert [one["index"] for one in done] == list(range(last["next_index"]))
    assert not any("error" in one for one in done)
    if call == "/catalog/batch":
        assert client.get("/catalog").json()["total"] == len(done)
    rest = client.post(call, **body("JSON", titles[last["next_index"] :]))
    assert len(rest.text.splitlines()) == 40 - len(done)


def test_what_a_caller_who_has_gone_waits_for_is_dropped(serve: Serve, encoder: Photos) -> None:
    """One waits for the towers, one for a decoder; neither costs work, a place or a queue entry."""
    client = serve(encoder, max_at_work=8, decode_threads=1, ready_cache_s=3600)
    assert client.get("/readyz").status_code == 200
    with asking(client, GATED) as first:
        assert encoder.reached.wait(PATIENCE_S)
        with asking(client, "gone"):
            until(lambda: queues(client)["encode"] == 1)
        until(lambda: at_work(client) == 1)
        encoder.gate.set()
        assert read(first)[0] == 200
    encoder.gate.clear()
    encoder.reached.clear()
    encoder.closed.set()
    before = encoder.photos_read
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(ask, client, "kept", RED)
        assert encoder.reached.wait(PATIENCE_S)
        with pytest.raises(httpx.ReadTimeout):
            client.post("/match", files={"image": ("a.png", RED)}, timeout=httpx.Timeout(PATIENCE_S, read=0.3))
        until(lambda: at_work(client) == 1)
        encoder.gate.set()
        assert waiting.result().status_code == 200
    assert ask(client, "title").status_code == 200
    assert encoder.photos_read == before + 1
    assert "gone" not in encoder.titles
    assert not any(queues(client).values())
    assert 'status="499"' in client.get("/metrics").text


@pytest.mark.parametrize("call", BATCH_CALLS)
def test_what_is_left_of_a_batch_is_dropped_when_its_caller_goes(serve: Serve, encoder: Photos, call: str) -> None:
    client = serve(encoder, max_batch_size=2)
    with client.stream("POST", call, **body("JSON", ["first", GATED, *(f"more {n}" for n in range(500))])) as answer:
        lines = answer.iter_lines()  # let go of, it would end the answer
        next(lines)
        assert encoder.reached.wait(PATIENCE_S)
    until(lambda: client.door.inside == 0)
    assert client.door.batches == 0
    encoder.gate.set()
    assert ask(client, "single").status_code == 200
    until(lambda: not any(queues(client).values()))
    assert len(encoder.titles) <= len(["first", GATED, "its neighbour", "single"])


def test_a_change_that_has_begun_is_finished_and_noted_although_its_caller_has_gone(
    serve: Serve, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    committing, go_on = threading.Event(), threading.Event()
    client = serve()
    commit = client.catalog.put

    def slow_put(*given: Any) -> Any:
        committing.set()
        assert go_on.wait(PATIENCE_S)
        return commit(*given)

    monkeypatch.setattr(client.catalog, "put", slow_put)
    with caplog.at_level(logging.INFO, "app.audit"):
        with asking(client, "some title", "/catalog/batch"):
            assert committing.wait(PATIENCE_S)
        until(lambda: client.door.inside == 0)
        go_on.set()
        until(lambda: client.get("/catalog").json()["total"] == 1)
        until(lambda: any(record.getMessage() == "audit" for record in caplog.records))
    assert found(ask(client, "some title")) == ["p"]


# -- stuck workers ---------------------------------------------------------------------------------------------


def test_a_stuck_batch_fails_and_the_next_is_served(serve: Serve, encoder: Photos) -> None:
    client = serve(encoder, max_batch_size=1, stuck_s=0.3, ready_cache_s=0)
    put(client, "mine", "red abc")
    with asking(client, GATED) as stuck:
        assert encoder.reached.wait(PATIENCE_S)
        waiting = ask(client, "red abc")
        status, _, text = read(stuck)
    assert (status, json.loads(text)["code"]) == (503, "worker_stuck")
    assert found(waiting) == ["mine"]
    until(lambda: client.get("/readyz").status_code == 200)
    encoder.gate.set()
    assert found(ask(client, "red abc")) == ["mine"]


def test_a_stuck_worker_is_noticed_before_it_is_given_up(
    serve: Serve, encoder: Photos, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.api.service.SUSPICIOUS_S", 0.1)
    client = serve(encoder, ready_cache_s=3600)
    assert client.get("/readyz").status_code == 200
    with asking(client, GATED) as stuck:
        assert encoder.reached.wait(PATIENCE_S)
        until(lambda: client.get("/readyz").status_code == 503)
        assert "encode" in client.get("/readyz").json()["detail"]
        encoder.gate.set()
        assert read(stuck)[0] == 200
    assert client.get("/readyz").status_code == 200


def test_a_stuck_decoder_fails_alone(serve: Serve, encoder: Photos) -> None:
    client = serve(encoder, decode_threads=1, stuck_s=0.3)
    encoder.closed.set()
    check_problem(ask(client, None, RED), [503], "worker_stuck")
    encoder.closed.clear()
    assert ask(client, "title", RED).status_code == 200


def test_workers_that_get_stuck_again_and_again_make_the_service_unready_for_good(serve: Serve, encoder: Photos) -> None:
    client = serve(encoder, max_batch_size=1, stuck_s=0.1)
    for _ in range(3):
        check_problem(ask(client, GATED), [503], "worker_stuck")
    for _ in range(2):
        check_problem(ask(client, "title"), [503], "not_ready")
        answer = client.get("/readyz")
        check_problem(answer, [503], "not_ready")
        assert "started again" in answer.json()["detail"]
        assert client.get("/healthz").status_code == 200
        encoder.gate.set()


@pytest.mark.parametrize("error", [MemoryError, KeyboardInterrupt, SystemExit, RecursionError])
def test_a_decoder_that_breaks_costs_its_request_alone(
    serve: Serve, encoder: Photos, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    client = serve(encoder, decode_threads=1)

    def fail(data: bytes) -> Any:
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(encoder, "read_photo", fail)
        check_problem(ask(client, None, RED), [500], "internal_error")
        lines = client.post("/match/batch", **body("JSON", ["good"])).text.splitlines()
        assert "error" not in json.loads(lines[0])
    assert ask(client, None, RED).status_code == 200


# -- the end ---------------------------------------------------------------------------------------------------


def test_what_takes_too_long_to_finish_is_cut_off_and_told(serve: Serve, encoder: Photos) -> None:
    client = serve(encoder, shutdown_s=0.1)
    with asking(client, GATED) as one:
        assert encoder.reached.wait(PATIENCE_S)
        client.server.should_exit = True
        status, headers, text = read(one)
    assert (status, json.loads(text)["code"]) == (503, "shutting_down")
    assert headers["connection"] == "close"
