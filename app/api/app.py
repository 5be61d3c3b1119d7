"""The FastAPI app, from parts that are ready. Importing this file does no work."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, cast

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from app import __version__
from app.api import errors
from app.api.admission import Admission
from app.api.door import Door, Places
from app.api.fetching import Resolve
from app.api.keyring import Keyring
from app.api.middleware import BodyLimit, HeaderLimit, RequestLog, WholeForms
from app.api.rate_limit import RateLimiter
from app.api.routes import batches, catalog, compare, feedback, match, system
from app.api.security import OPEN, Access, SecurityHeaders, is_loopback
from app.api.service import Service
from app.core.access import KeyStore
from app.matcher import Matcher
from app.settings import Settings
from app.telemetry import Metrics
from app.tracing import Traced, Tracing

DESCRIPTION = """*Is this the same product?* Send a photo, a title or both, and get every product of the catalog whose
score (a cosine in [-1, 1]) reaches the threshold. Errors are RFC 9457 problem details with a stable `code`."""


def create_app(
    matcher: Matcher,
    settings: Settings,
    model_details: dict[str, Any] | None = None,
    keys: KeyStore | None = None,
    resolve: Resolve | None = None,
    tracing: Tracing | None = None,
) -> FastAPI:
    """Returns the app.

    Args:
        matcher: closed when the app stops.
        settings: limits and batching.
        model_details: what `GET /model` shows besides the matcher's own words.
        keys: who may do what; without them, everybody may do everything: for programs that embed the app, and for tests.
        resolve: how the names in `image_url` are looked up; without it, as this machine does.
        tracing: where the traces of requests go; closed when the app stops.
    """
    metrics = Metrics()
    places = Places(settings.max_slowdown, settings.max_at_work)
    door = Door(places, settings.max_batches, settings.max_body_bytes)
    alone = is_loopback(settings.host) or settings.allow_anonymous
    keyring = None if keys is None else Keyring(keys, settings.keys_cache_s, anonymous=alone)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.service = Service(matcher, settings, metrics, door, resolve, tracing)
        app.state.service.start()
        noting = asyncio.create_task(keyring.keep_noting()) if keyring else None
        yield
        await app.state.service.stop()
        if keyring and noting:
            noting.cancel()
            await keyring.note_uses()
        if tracing:
            await asyncio.to_thread(tracing.close)

    app = FastAPI(
        title="samesku",
        summary="Is this the same product?",
        description=DESCRIPTION,
        version=__version__,
        lifespan=lifespan,
        telemetry=tracing.config if tracing else {"auto_configure": False},
        form_limits={
            "max_files": settings.max_form_parts,
            "max_fields": settings.max_form_parts,
            "max_part_size": settings.max_field_bytes,
        },
    )
    app.state.metrics, app.state.door, app.state.settings = metrics, door, settings
    app.state.model_details = model_details or {}
    app.state.limiter = RateLimiter(settings.rate_limit_per_s, settings.rate_limit_burst)
    _guard(app, settings, keyring, metrics, matcher.model, tracing)
    errors.install(app)
    for module in (compare, match, batches, catalog, feedback, system):
        app.include_router(module.router)
    app.openapi = partial(_openapi, app)  # type: ignore[method-assign]
    return app


def _guard(
    app: FastAPI, settings: Settings, keyring: Keyring | None, metrics: Metrics, model: str, tracing: Tracing | None
) -> None:  # fmt: skip
    """Puts the middlewares around the app, the innermost first."""
    origins = settings.cors_origins
    app.add_middleware(WholeForms)
    app.add_middleware(
        BodyLimit, request_bytes=settings.max_request_bytes, batch_bytes=settings.max_batch_bytes,
        manifest_bytes=settings.max_manifest_bytes, metrics=metrics,
    )  # fmt: skip
    app.add_middleware(Admission, door=app.state.door, metrics=metrics, timeout_s=settings.request_timeout_s)
    app.add_middleware(
        Access, keyring=keyring, limiter=app.state.limiter, metrics=metrics, origins=origins,
        local_only=keyring is not None and not settings.allow_anonymous,
    )  # fmt: skip
    if origins:
        app.add_middleware(
            CORSMiddleware, allow_origins=origins, allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["Authorization", "X-API-Key", "X-Request-ID", "X-Request-Timeout-Ms"],
            expose_headers=["X-Request-ID", "Retry-After"],
        )  # fmt: skip
    app.add_middleware(HeaderLimit, max_bytes=settings.max_header_bytes, metrics=metrics)
    if tracing:
        app.add_middleware(Traced)
    app.add_middleware(RequestLog, metrics=metrics, model=model)
    app.add_middleware(SecurityHeaders)


def _openapi(app: FastAPI) -> dict[str, Any]:
    """Returns FastAPI's schema, with errors under the media type that they are sent with, and the two ways to send a key."""
    if app.openapi_schema is None:
        schema = FastAPI.openapi(app)
        schema["components"]["securitySchemes"] = {
            "bearer": {"type": "http", "scheme": "bearer"},
            "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
        }
        schema["security"] = [{"bearer": []}, {"header": []}]
        for path in OPEN & schema["paths"].keys():
            for operation in schema["paths"][path].values():
                operation["security"] = []
        for operation in (one for path in schema["paths"].values() for one in path.values()):
            for status, response in operation["responses"].items():
                if status >= "400" and "application/json" in response.get("content", {}):
                    response["content"] = {errors.MEDIA_TYPE: response["content"]["application/json"]}
    return cast("dict[str, Any]", app.openapi_schema)
