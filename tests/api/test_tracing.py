"""Traces: one of each request, its stages inside, a caller's trace continued, a real collector; and nothing unless asked."""

from __future__ import annotations

import builtins
import json
import logging
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from app.api.app import create_app
from app.matcher import Matcher
from app.settings import Settings
from app.tracing import ENDPOINTS, Tracing, from_environment
from tests.api.calls import RED, ask, put
from tests.api.conftest import BrokenEncoder

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.fixture
def spans() -> InMemorySpanExporter:
    return InMemorySpanExporter()


def traced(matcher: Matcher, folder: Path, exporter: InMemorySpanExporter) -> TestClient:
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    app = create_app(matcher, Settings(data_dir=folder), tracing=Tracing(provider))
    return TestClient(app, raise_server_exceptions=False)


@pytest.fixture
def client(matcher: Matcher, tmp_path: Path, spans: InMemorySpanExporter) -> Iterator[TestClient]:
    with traced(matcher, tmp_path / "data", spans) as one:
        yield one


def of(spans: InMemorySpanExporter, name: str) -> ReadableSpan:
    """The only span of that name."""
    (span,) = (one for one in spans.get_finished_spans() if one.name == name)
    return span


def times(span: ReadableSpan) -> tuple[int, int]:
    assert span.start_time is not None
    assert span.end_time is not None
    return span.start_time, span.end_time


def test_a_match_is_one_trace_with_its_stages_in_order(client: TestClient, spans: InMemorySpanExporter) -> None:
    put(client, "p", "aaa", RED)
    spans.clear()
    ask(client, "aaa", RED)
    found = spans.get_finished_spans()
    stage_names = ["queue", "decode", "queue", "encode", "queue", "search", "judge"]
    assert [one.name for one in found] == [*stage_names, "POST /match"]
    request, stages = found[-1], found[:-1]
    assert {one.context.trace_id for one in found} == {request.context.trace_id}
    assert all(one.parent is not None and one.parent.span_id == request.context.span_id for one in stages)
    assert all(start <= end for start, end in map(times, found))
    decode, encode, search, judge = (times(of(spans, name)) for name in ("decode", "encode", "search", "judge"))
    ends = [end for _, end in (decode, encode, search, judge)]
    assert ends == sorted(ends)
    assert times(request)[0] <= decode[0]


def test_a_request_carries_its_id_and_what_the_log_says(
    client: TestClient, spans: InMemorySpanExporter, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "app"):
        client.post("/match", data={"title": "aaa"}, headers={"X-Request-ID": "trace-me"})
    attributes = dict(of(spans, "POST /match").attributes or {})
    expected: dict[str, Any] = {
        "samesku.request_id": "trace-me", "http.request.method": "POST", "http.route": "/match", "url.path": "/match",
        "http.response.status_code": 200, "samesku.matches": 0, "samesku.batch_size": 1,
    }  # fmt: skip
    assert expected.items() <= attributes.items()
    (record,) = (one for one in caplog.records if one.getMessage() == "request")
    assert vars(record)["trace_id"] == f"{of(spans, 'POST /match').context.trace_id:032x}"
    assert not any("key" in name for name in attributes)


@pytest.mark.parametrize("sampled", [True, False])
def test_a_callers_trace_is_continued_and_its_decision_kept(
    client: TestClient, spans: InMemorySpanExporter, sampled: bool
) -> None:
    flags = "01" if sampled else "00"
    client.post("/match", data={"title": "aaa"}, headers={"traceparent": f"00-{TRACE}-{PARENT}-{flags}"})
    if not sampled:
        assert spans.get_finished_spans() == ()
        return
    request = of(spans, "POST /match")
    assert f"{request.context.trace_id:032x}" == TRACE
    assert request.parent is not None
    assert f"{request.parent.span_id:016x}" == PARENT


@pytest.mark.parametrize("sent", ["", "nonsense", f"00-{'0' * 32}-{PARENT}-01", f"00-{TRACE}-{'f' * 300}-01"])
def test_a_strange_traceparent_begins_a_new_trace(client: TestClient, spans: InMemorySpanExporter, sent: str) -> None:
    assert client.post("/match", data={"title": "aaa"}, headers={"traceparent": sent}).status_code == 200
    request = of(spans, "POST /match")
    assert request.parent is None
    assert f"{request.context.trace_id:032x}" != TRACE


def test_probes_scrapes_and_items_of_batches_make_no_spans(client: TestClient, spans: InMemorySpanExporter) -> None:
    for path in ("/healthz", "/readyz", "/metrics"):
        assert client.get(path).status_code == 200
    assert spans.get_finished_spans() == ()
    client.post("/match/batch", json={"items": [{"title": "aaa"}] * 20})
    assert [one.name for one in spans.get_finished_spans()] == ["POST /match/batch"]
    assert (of(spans, "POST /match/batch").attributes or {})["samesku.items"] == 20


def test_what_went_wrong_is_marked_without_the_text_of_the_error(
    open_matcher: Any, tmp_path: Path, spans: InMemorySpanExporter
) -> None:
    matcher: Matcher = open_matcher()
    broken = BrokenEncoder()
    broken.failure, matcher.encoder = ValueError("swordfish"), broken
    with traced(matcher, tmp_path / "data", spans) as client:
        assert ask(client, "aaa").status_code == 500
        assert ask(client, "").status_code == 422
        client.get("/nowhere")
    failed, refused = (one for one in spans.get_finished_spans() if one.name == "POST /match")
    assert (failed.status.is_ok, refused.status.is_ok) == (False, True)
    assert (of(spans, "GET").attributes or {})["http.response.status_code"] == 404
    assert "swordfish" not in "".join(one.to_json() for one in spans.get_finished_spans())


# -- a collector -----------------------------------------------------------------------------------------------


class Collector(ThreadingHTTPServer):
    """Takes OTLP by HTTP, as collectors do."""

    def __init__(self) -> None:
        self.received: list[ExportTraceServiceRequest] = []
        self.paths: set[str] = set()
        super().__init__(("127.0.0.1", 0), Post)

    def names(self) -> list[str]:
        return [
            span.name
            for one in self.received
            for resource in one.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]


class Post(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        assert isinstance(self.server, Collector)
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.paths.add(self.path)
        self.server.received.append(ExportTraceServiceRequest.FromString(body))
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - likewise
        pass


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as one:
        thread = threading.Thread(target=one.serve_forever)
        thread.start()
        yield one
        one.shutdown()
        thread.join()


def ask_once(matcher: Matcher, folder: Path, title: str, photo: bytes | None = None) -> None:
    """Starts a service as the environment says, asks it one question, and stops it."""
    app = create_app(matcher, Settings(data_dir=folder), tracing=from_environment("1.2.3"))
    with TestClient(app) as client:
        ask(client, title, photo)


def test_a_collector_gets_the_traces_by_the_time_the_service_has_stopped(
    matcher: Matcher, tmp_path: Path, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{collector.server_port}")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "none")
    ask_once(matcher, tmp_path, "aaa", RED)
    assert collector.paths == {"/v1/traces"}
    assert {"POST /match", "decode", "encode", "search", "judge", "queue"} == set(collector.names())
    resource = collector.received[0].resource_spans[0].resource
    named = {one.key: one.value.string_value for one in resource.attributes}
    assert (named["service.name"], named["service.version"]) == ("samesku", "1.2.3")


def test_the_operator_names_the_service(
    matcher: Matcher, tmp_path: Path, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", f"http://127.0.0.1:{collector.server_port}/traces")
    monkeypatch.setenv("OTEL_SERVICE_NAME", "ours")
    ask_once(matcher, tmp_path, "aaa")
    assert collector.paths == {"/traces"}
    resource = collector.received[0].resource_spans[0].resource
    assert "ours" in {one.value.string_value for one in resource.attributes if one.key == "service.name"}


def test_a_collector_that_is_away_costs_no_request(
    matcher: Matcher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")  # nobody listens there
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    app = create_app(matcher, Settings(data_dir=tmp_path), tracing=from_environment("1.2.3"))
    with TestClient(app) as client:
        assert [ask(client, "aaa").status_code for _ in range(5)] == [200] * 5


# -- off -------------------------------------------------------------------------------------------------------


def test_nothing_is_traced_unless_a_collector_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ENDPOINTS:
        monkeypatch.delenv(name, raising=False)
    assert from_environment("1.2.3") is None


def test_neither_sdk_nor_exporter_is_imported_unless_a_collector_is_named() -> None:
    script = (
        "import json, sys, app.commands.serve, app.api.app\n"
        "from app.tracing import from_environment\n"
        "assert from_environment('1') is None\n"
        "print(json.dumps([m for m in sys.modules if m.startswith(('opentelemetry.sdk', 'opentelemetry.exporter'))]))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env={"PATH": ""})
    assert json.loads(done.stdout) == []


def test_a_collector_without_the_extra_is_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.startswith("opentelemetry.exporter"):
            raise ModuleNotFoundError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    assert from_environment("1.2.3") is None
    assert "install the extra 'otel'" in caplog.text
