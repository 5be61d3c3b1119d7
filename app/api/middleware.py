"""Around every request: an id, a log line, metrics, and a constant text if all else fails."""

from __future__ import annotations

import logging
import re
import time
import uuid
from typing import Any

from python_multipart.multipart import parse_options_header
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.errors import HEADERS_TOO_LARGE, TOO_LARGE, problem, problem_of, problem_response
from app.telemetry import Metrics, request_fields, request_id

log = logging.getLogger(__name__)

EPILOGUE_BYTES = 4096  # that a form may have behind its last line
CLIENT_GONE = 499  # for log and metrics: the caller had gone before there was an answer
_METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}
_ACCEPTABLE_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


class RequestLog:
    """ASGI middleware. A caller's `X-Request-ID` is kept if it is plain text, so that its logs and ours can be joined."""

    def __init__(self, app: ASGIApp, metrics: Metrics, model: str) -> None:
        """Wraps an app; `model` is what log lines call the bundle."""
        self._app, self._metrics, self._model = app, metrics, model

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the class."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        sent = next((value for name, value in scope["headers"] if name == b"x-request-id"), b"").decode("latin-1")
        one = sent if _ACCEPTABLE_ID.fullmatch(sent) else uuid.uuid4().hex
        token = request_id.set(one)
        fields: dict[str, Any] = {"model": self._model}
        noting = request_fields.set(fields)
        scope.setdefault("state", {})["log"] = fields
        started, status = time.perf_counter(), 0
        self._metrics.in_flight.inc()

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", one.encode())]
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        except Exception as error:
            body = problem_of(error)
            self._metrics.rejected.labels(body["code"]).inc()
            if status:  # the answer has begun: nothing can be said any more
                raise
            await problem_response(body)(scope, receive, send_with_id)
        finally:
            self._metrics.in_flight.dec()
            self._record(scope, status or CLIENT_GONE, time.perf_counter() - started, fields)
            request_fields.reset(noting)
            request_id.reset(token)

    def _record(self, scope: Scope, status: int, took_s: float, fields: dict[str, Any]) -> None:
        route = getattr(scope.get("route"), "path", "unknown")
        method = scope["method"] if scope["method"] in _METHODS else "other"  # a label must not be the caller's to choose
        self._metrics.requests.labels(method, route, status).inc()
        self._metrics.latency.labels(route).observe(took_s)
        # in a flood nearly all requests are refused: the metrics count them
        quiet = status == 429 or (route in ("/healthz", "/readyz", "/metrics") and status < 400)
        log.log(
            logging.DEBUG if quiet else logging.INFO,
            "request",
            extra={"method": scope["method"], "path": scope["path"], "status": status, "took_ms": round(took_s * 1000, 1)}
            | fields,
        )


class HeaderLimit:
    """ASGI middleware: refuses requests whose address and headers are too large."""

    def __init__(self, app: ASGIApp, max_bytes: int, metrics: Metrics) -> None:
        self._app, self._max_bytes, self._metrics = app, max_bytes, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the class."""
        if scope["type"] == "http":
            size = len(scope.get("raw_path") or b"") + len(scope["query_string"])
            size += sum(len(name) + len(value) + 4 for name, value in scope["headers"])  # 4: colon, blank, line end
            if size > self._max_bytes:
                self._metrics.rejected.labels(HEADERS_TOO_LARGE[0]).inc()
                await problem_response(problem(431, *HEADERS_TOO_LARGE))(scope, receive, send)
                return
        await self._app(scope, receive, send)


class BodyLimit:
    """ASGI middleware: refuses bodies that are too large, before they are read where their length is announced."""

    def __init__(self, app: ASGIApp, request_bytes: int, batch_bytes: int, manifest_bytes: int, metrics: Metrics) -> None:
        self._app, self._request_bytes, self._batch_bytes, self._metrics = app, request_bytes, batch_bytes, metrics
        self._json_bytes = min(batch_bytes, manifest_bytes)  # JSON is collected in memory

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the class."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        limit = self._limit(scope)
        announced = next((value for name, value in scope["headers"] if name == b"content-length"), b"0")
        if announced.isdigit() and int(announced) > limit:
            self._metrics.rejected.labels(TOO_LARGE[0]).inc()
            await problem_response(problem(413, *TOO_LARGE))(scope, receive, send)
            return
        received = 0

        async def receive_counted() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > limit:
                raise HTTPException(413)
            return message

        await self._app(scope, receive_counted, send)

    def _limit(self, scope: Scope) -> int:
        if not scope["path"].endswith("/batch"):
            return self._request_bytes
        kind = next((value for name, value in scope["headers"] if name == b"content-type"), b"")
        return self._batch_bytes if kind.lower().startswith(b"multipart/") else self._json_bytes


class WholeForms:
    """ASGI middleware: refuses multipart forms without their last line.

    The parser takes a form that ends in the middle of a photo for one without it, and a product would lose it unnoticed.
    So it does if the last line is in the photo: only at the start of a line it is one.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the class."""
        kind, options = b"", dict[bytes, bytes]()
        if scope["type"] == "http":
            kind, options = parse_options_header(next((v for n, v in scope["headers"] if n == b"content-type"), None))
        if kind != b"multipart/form-data" or b"boundary" not in options:
            await self._app(scope, receive, send)
            return
        last, tail = b"\r\n--" + options[b"boundary"] + b"--", b"\r\n"

        async def receive_whole() -> Message:
            nonlocal tail
            message = await receive()
            if message["type"] == "http.request":
                tail = (tail + message.get("body", b""))[-len(last) - EPILOGUE_BYTES :]
                if not message.get("more_body", False) and last not in tail:
                    raise HTTPException(400, "the form is cut off: send it to its last boundary.")
            return message

        await self._app(scope, receive_whole, send)
