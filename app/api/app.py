"""The FastAPI app, from parts that are ready. Importing this file does no work."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, cast

from fastapi import FastAPI

from app import __version__
from app.api import errors
from app.api.middleware import BodyLimit, RequestLog
from app.api.routes import batches, catalog, compare, feedback, match, system
from app.api.service import Service
from app.matcher import Matcher
from app.settings import Settings
from app.telemetry import Metrics

DESCRIPTION = """*Is this the same product?* Send a photo, a title or both, and get every product of the catalog whose
score (a cosine in [-1, 1]) reaches the threshold. Errors are RFC 9457 problem details with a stable `code`."""


def create_app(matcher: Matcher, settings: Settings, model_details: dict[str, Any] | None = None) -> FastAPI:
    """Returns the app.

    Args:
        matcher: closed when the app stops.
        settings: limits and batching.
        model_details: what `GET /model` shows besides the matcher's own words.
    """
    metrics = Metrics()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        app.state.service = Service(matcher, settings, metrics)
        app.state.service.start()
        yield
        await app.state.service.stop()

    app = FastAPI(
        title="samesku",
        summary="Is this the same product?",
        description=DESCRIPTION,
        version=__version__,
        lifespan=lifespan,
    )
    app.state.metrics = metrics
    app.state.model_details = model_details or {}
    app.add_middleware(BodyLimit, request_bytes=settings.max_request_bytes, batch_bytes=settings.max_batch_bytes)
    app.add_middleware(RequestLog, metrics=metrics)  # added last, so outermost
    errors.install(app)
    for module in (compare, match, batches, catalog, feedback, system):
        app.include_router(module.router)
    app.openapi = partial(_openapi, app)  # type: ignore[method-assign]
    return app


def _openapi(app: FastAPI) -> dict[str, Any]:
    """Returns FastAPI's schema, with errors under the media type that they are sent with."""
    if app.openapi_schema is None:
        schema = FastAPI.openapi(app)
        for operation in (one for path in schema["paths"].values() for one in path.values()):
            for status, response in operation["responses"].items():
                if status >= "400" and "application/json" in response.get("content", {}):
                    response["content"] = {errors.MEDIA_TYPE: response["content"]["application/json"]}
    return cast("dict[str, Any]", app.openapi_schema)
