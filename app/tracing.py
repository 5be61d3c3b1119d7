"""Traces by OpenTelemetry: one of each request, with a span for every stage that it passes. The extra `otel`.

Off unless `OTEL_EXPORTER_OTLP_ENDPOINT` (or `OTEL_EXPORTER_OTLP_TRACES_ENDPOINT`) names a collector that takes OTLP by HTTP;
all other variables of the standard count as well: names, samplers, headers, batches. Neither SDK nor exporter is imported
until then. FastAPI makes the span of a request, and continues the trace of a caller's `traceparent`.
"""

from __future__ import annotations

import logging
import os
import time
from typing import TYPE_CHECKING, Any

from fastapi.telemetry import TelemetryConfig
from opentelemetry import trace
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.telemetry import request_id

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
UNTRACED = frozenset({"/healthz", "/readyz", "/metrics"})
FLUSH_MS = 5000  # a collector that is away must not hold up the end

log = logging.getLogger(__name__)


def from_environment(version: str) -> Tracing | None:
    """Returns tracing as the standard's variables say, None if they name no collector, or the extra is not installed."""
    if not any(os.environ.get(name) for name in ENDPOINTS):
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ModuleNotFoundError:
        log.warning("a collector of traces is named, but OpenTelemetry is not: install the extra 'otel' to have traces")
        return None
    provider = TracerProvider(resource=_resource(version), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return Tracing(provider)


def _resource(version: str) -> Any:
    from opentelemetry.sdk.resources import Resource

    found = Resource.create({"service.version": version})
    if str(found.attributes.get("service.name", "")).startswith("unknown_service"):  # the operator has not named it
        found = found.merge(Resource({"service.name": "samesku"}))
    return found


class Tracing:
    """Makes spans. Each belongs to the request in whose context it is made."""

    def __init__(self, provider: TracerProvider) -> None:
        """`provider`: where spans go; it is shut down by `close`."""
        self._provider, self._tracer = provider, provider.get_tracer("samesku")

    @property
    def config(self) -> TelemetryConfig:
        """What FastAPI is to do: the spans of requests and nothing else; log and metrics are ours."""
        return {
            "tracer_provider": self._provider,
            "metrics": False,
            "logs": False,
            "operation_spans": False,
            "auto_configure": False,
            "exclude": lambda scope: scope["path"] in UNTRACED,
        }

    def stage(self, name: str, waited_s: float | None, worked_s: float, ago_s: float = 0.0) -> None:
        """Adds spans for a stage that ended `ago_s` seconds ago: `queue` if it waited, and one of its own name.

        Outside of a trace it does nothing.
        """
        if not trace.get_current_span().is_recording():
            return
        ended = time.time_ns() - int(ago_s * 1e9)
        began = ended - int(worked_s * 1e9)
        spans = [] if waited_s is None else [("queue", began - int(waited_s * 1e9), began)]
        for span_name, start, end in (*spans, (name, began, ended)):
            self._tracer.start_span(span_name, attributes={"samesku.stage": name}, start_time=start).end(end)

    def close(self) -> None:
        """Sends what is left, for some seconds at most."""
        self._provider.force_flush(FLUSH_MS)
        self._provider.shutdown()


class Traced:
    """ASGI middleware: the span of a request gets its id and what its log line says, the line gets the id of the trace."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the class."""
        span = trace.get_current_span()
        if scope["type"] != "http" or not span.is_recording():
            await self._app(scope, receive, send)
            return
        span.set_attribute("samesku.request_id", request_id.get())
        fields: dict[str, Any] = scope["state"]["log"]
        fields["trace_id"] = f"{span.get_span_context().trace_id:032x}"

        async def send_noting(message: Message) -> None:
            if message["type"] == "http.response.start":  # the span ends with the last byte, and so before this middleware
                span.set_attributes({f"samesku.{name}": fields[name] for name in fields.keys() - {"trace_id", "key"}})
            await send(message)

        await self._app(scope, receive, send_noting)
