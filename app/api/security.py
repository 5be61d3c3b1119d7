"""At the door, before a body is read: who calls, whether the key covers the call, how often; and headers for browsers."""

from __future__ import annotations

import ipaddress
from collections.abc import Collection
from urllib.parse import urlsplit

from fastapi import Request
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.errors import headers_of, problem_of, problem_response
from app.api.keyring import Keyring
from app.api.rate_limit import RateLimiter
from app.core.access import ANONYMOUS, Caller, Role
from app.core.product import check_catalog
from app.errors import AppError, CatalogNotFound, Forbidden
from app.telemetry import Metrics

# what says nothing of products: probes, and the description of the API, which is the same for everybody
OPEN = frozenset({"/healthz", "/readyz", "/docs", "/docs/oauth2-redirect", "/redoc", "/openapi.json"})
_ASKING = frozenset({"/match", "/match/batch", "/compare"})
_CHANGING = frozenset({"/catalog", "/catalog/batch", "/feedback"})

_DOCS = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' https://cdn.jsdelivr.net; worker-src blob:; "
    "style-src 'self' 'unsafe-inline' https://cdn.jsdelivr.net https://fonts.googleapis.com; "
    "font-src https://fonts.gstatic.com; img-src 'self' data: https://fastapi.tiangolo.com https://cdn.redoc.ly; "
    "frame-ancestors 'none'"
)
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
}


def needed_role(method: str, path: str) -> Role:
    """Returns the role that a call takes; whatever is not known takes the highest."""
    if path == "/metrics":
        return Role.METRICS
    if method in ("GET", "HEAD") or (method == "POST" and path in _ASKING):
        return Role.READ
    if (method == "POST" and path in _CHANGING) or (method == "DELETE" and path.startswith("/catalog/")):
        return Role.WRITE
    return Role.ADMIN


def is_loopback(host: str) -> bool:
    """True if only this machine reaches what listens on a host, given as a name or an address."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def caller_of(request: Request) -> Caller:
    """Returns who sends a request."""
    caller: Caller = request.state.caller
    return caller


def visible(request: Request, catalog: str) -> str:
    """Returns the name of a catalog that the caller may know of.

    A catalog that a key is not for is refused here, before anybody looks whether it exists, and as if it did not.

    Raises:
        InvalidInput: it is no name of a catalog.
        CatalogNotFound: the caller's key is not for it.
    """
    check_catalog(catalog)
    if not caller_of(request).sees(catalog):
        raise CatalogNotFound.named(catalog)
    return catalog


class Access:
    """ASGI middleware: lets in who may, with `caller` in the request's state.

    While there is no key, web pages are kept out: a browser would send their requests to this machine's services.
    """

    def __init__(
        self,
        app: ASGIApp,
        keyring: Keyring | None,
        limiter: RateLimiter,
        metrics: Metrics,
        origins: Collection[str] = (),
        local_only: bool = False,
    ) -> None:
        """Wraps an app.

        Args:
            app: what is inside.
            keyring: who has which key; None to let everybody do everything.
            limiter: how often.
            metrics: where refusals are counted.
            origins: of web pages that may call.
            local_only: callers without a key must have called this machine by a name of its own.
        """
        self._app, self._keyring, self._limiter, self._metrics = app, keyring, limiter, metrics
        self._origins, self._local_only = origins, local_only

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the class."""
        if scope["type"] == "http" and scope["path"] not in OPEN:
            try:
                await self._admit(scope)
            except AppError as error:
                self._metrics.rejected.labels(error.code).inc()
                await problem_response(problem_of(error), headers_of(error))(scope, receive, send)
                return
        await self._app(scope, receive, send)

    async def _admit(self, scope: Scope) -> None:
        headers = Headers(scope=scope)
        caller = ANONYMOUS if self._keyring is None else await self._keyring.caller(sent_keys(headers))
        if caller is ANONYMOUS:
            self._check_page(headers)
        state = scope.setdefault("state", {})
        state["caller"] = caller
        state.setdefault("log", {})["key"] = caller.key
        needed = needed_role(scope["method"], scope["path"])
        if not caller.role.covers(needed):
            raise Forbidden(f"this key has the role {caller.role}, the call takes {needed}: ask for another key.")
        self._limiter.take(caller.key)

    def _check_page(self, headers: Headers) -> None:
        host, origin = headers.get("host", ""), headers.get("origin")
        if self._local_only and not is_loopback(urlsplit(f"//{host}").hostname or ""):
            raise Forbidden(
                "as long as there is no API key, the service answers to the names of its own machine only: create a key, or "
                "set SAMESKU_ALLOW_ANONYMOUS=true."
            )
        if origin is not None and origin not in self._origins and urlsplit(origin).netloc != host:
            raise Forbidden("web pages of other sites may not call this service: add theirs to SAMESKU_CORS_ORIGINS.")


def sent_keys(headers: Headers) -> list[str]:
    """Returns the API keys in a request's headers."""
    bearer = [value[7:].strip() for value in headers.getlist("authorization") if value[:7].lower() == "bearer "]
    return bearer + [value.strip() for value in headers.getlist("x-api-key")]


class SecurityHeaders:
    """ASGI middleware: tells browsers to guess, frame, run and keep nothing."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the class."""

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
                if scope["path"] in OPEN and headers.get("content-type", "").startswith("text/html"):
                    headers["Content-Security-Policy"] = _DOCS
            await send(message)

        await self._app(scope, receive, send_with_headers if scope["type"] == "http" else send)
