"""Around every request: an id, a log line, metrics, and a constant text if all else fails."""

from __future__ import annotations

import logging
import re
import time
import uuid
from typing import Any

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.errors import MEDIA_TYPE, problem_of
from app.telemetry import Metrics, request_id

log = logging.getLogger(__name__)

_ACCEPTABLE_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


class RequestLog:
    """ASGI middleware. A caller's `X-Request-ID` is kept if it is plain text, so that its logs and ours can be joined."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the class."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        sent = next((value for name, value in scope["headers"] if name == b"x-request-id"), b"").decode("latin-1")
        one = sent if _ACCEPTABLE_ID.fullmatch(sent) else uuid.uuid4().hex
        token = request_id.set(one)
        fields: dict[str, Any] = {}
        scope.setdefault("state", {})["log"] = fields
        started, status = time.perf_counter(), 0

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
            if status:  # the answer has begun: nothing can be said any more
                raise
            await JSONResponse(body, body["status"], media_type=MEDIA_TYPE)(scope, receive, send_with_id)
        finally:
            self._record(scope, status, time.perf_counter() - started, fields)
            request_id.reset(token)

    def _record(self, scope: Scope, status: int, took_s: float, fields: dict[str, Any]) -> None:
        route = getattr(scope.get("route"), "path", "unknown")
        self._metrics.requests.labels(scope["method"], route, status).inc()
        self._metrics.latency.labels(route).observe(took_s)
        quiet = route in ("/healthz", "/readyz", "/metrics") and status < 400
        log.log(
            logging.DEBUG if quiet else logging.INFO,
            "request",
            extra={"method": scope["method"], "path": scope["path"], "status": status, "took_ms": round(took_s * 1000, 1)}
            | fields,
        )
