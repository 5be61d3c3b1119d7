"""The model in use, health and metrics."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from app.api.routes.common import PROBLEMS, service_of
from app.api.schemas import ModelOut
from app.api.security import caller_of
from app.errors import AppError

router = APIRouter(tags=["system"])
_REFUSALS: dict[int | str, dict[str, Any]] = {status: PROBLEMS[status] for status in (401, 403, 429, 503)}


@router.get("/model", responses=_REFUSALS)
def get_model(request: Request) -> ModelOut:
    """Returns the bundle in use, and the catalogs that the caller may know of."""
    matcher, caller = service_of(request).matcher, caller_of(request)
    name, _, fingerprint = matcher.model.rpartition("@")
    thresholds = matcher.judge.thresholds.points
    return ModelOut(
        name=name,
        fingerprint=fingerprint,
        thresholds={modality: [list(point) for point in points] for modality, points in thresholds.items()},
        image_dim=matcher.encoder.image_dim,
        title_dim=matcher.encoder.title_dim,
        catalogs={info.name: info.products for info in matcher.catalog.catalogs() if caller.sees(info.name)},
        details=request.app.state.model_details,
    )


@router.get("/healthz")
async def alive() -> dict[str, str]:
    """Answers as long as the process does. For liveness; see `/readyz` for readiness."""
    return {"status": "alive"}


@router.get("/readyz", responses={503: PROBLEMS[503]})
async def ready(request: Request) -> dict[str, str]:
    """Embeds and searches for real (cached for a few seconds); 503 with the reason if that fails."""
    service = service_of(request)
    try:
        await service.check_ready()
    except AppError:
        service.metrics.ready.set(0)
        raise
    service.metrics.ready.set(1)
    return {"status": "ready"}


@router.get("/metrics", response_class=Response, responses=_REFUSALS | {200: {"content": {"text/plain": {}}}})
async def metrics(request: Request) -> Response:
    """Returns metrics in the text format of Prometheus. They name every catalog, so a key for some of them does not do."""
    service = service_of(request)
    service.refresh_gauges()
    return Response(generate_latest(service.metrics.registry), media_type=CONTENT_TYPE_LATEST)
