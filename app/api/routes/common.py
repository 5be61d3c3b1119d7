"""What several calls share: the service, problem answers in the OpenAPI, NDJSON lines, batch bodies."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import Depends, Form, Query, Request, UploadFile
from pydantic import BaseModel

from app.api.errors import problem_of
from app.api.schemas import BatchItemIn, ProblemOut
from app.api.security import caller_of, visible
from app.api.service import Service
from app.api.uploads import BatchItem, read_upload
from app.core.product import DEFAULT_CATALOG
from app.errors import AppError, InvalidInput

NDJSON = "application/x-ndjson"

_DESCRIPTIONS = {
    400: "A form that cannot be read, is cut off, or has too many parts.",
    401: "No API key, or one that is unknown or revoked.",
    403: "The key's role does not cover the call.",
    404: "No such catalog, product or photo; a catalog that the key is not for looks the same.",
    413: "More bytes, pixels or items than the limits allow.",
    415: "A content type that this call does not take.",
    422: "Input that cannot be used; `detail` says what to send instead.",
    429: "Too much is waiting already, or the key asks too often; try again after `Retry-After` seconds.",
    503: "Starting, stopping, or not able to answer; or not able to store, then try again after `Retry-After` seconds.",
    504: "The time that the request was given is over; see the header `X-Request-Timeout-Ms`.",
}
PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"model": ProblemOut, "description": text} for status, text in _DESCRIPTIONS.items()
}


def service_of(request: Request) -> Service:
    """Returns the app's service."""
    service: Service = request.app.state.service
    return service


async def _queried(request: Request, catalog: Annotated[str, Query(description="Which catalog.")] = DEFAULT_CATALOG) -> str:
    return visible(request, catalog)


async def _sent(
    request: Request,
    catalog: Annotated[str, Form(description="Which catalog; created by its first product.")] = DEFAULT_CATALOG,
) -> str:
    return visible(request, catalog)


QueriedCatalog = Annotated[str, Depends(_queried)]  # the caller may know of it
SentCatalog = Annotated[str, Depends(_sent)]


@asynccontextmanager
async def one_photo(service: Service, image: UploadFile | None, image_url: str | None) -> AsyncIterator[bytes | None]:
    """Gives the one photo that there may be, uploaded or fetched.

    Raises:
        InvalidInput: there are two. Others as `read_upload` and `Fetcher.photos`.
    """
    if image is None:
        async with service.fetcher.photos([] if image_url is None else [image_url]) as photos:
            yield photos[0] if photos else None
    elif image_url is None:
        yield await read_upload(image, service.settings.max_image_bytes)
    else:
        raise InvalidInput("there are an image and an image_url: send one of the two.")


def count_items(request: Request, items: int) -> None:
    """Makes a batch count as its items, in the log and for the rate of its key."""
    request.state.log["items"] = items
    route: str = request.scope["route"].path
    request.app.state.metrics.items.labels(route).inc(items)
    request.app.state.limiter.charge(caller_of(request).key, items - 1)


def line(item: BatchItem, outcome: dict[str, Any]) -> bytes:
    """Returns one NDJSON line: the item's position and id, and what became of it."""
    return json.dumps({"index": item.index, "id": item.id} | outcome).encode() + b"\n"


def last_line(reason: AppError, sent: int) -> bytes:
    """Returns the line of a batch that ends early: why, and the index of the first item that nothing was done for."""
    return json.dumps({"error": problem_of(reason), "next_index": sent}).encode() + b"\n"


def deadline_of(request: Request) -> float | None:
    """Returns when a batch is to end, on the event loop's clock; None if its caller waits for as long as it takes."""
    deadline: float | None = getattr(request.state, "deadline", None)
    return deadline


def batch_body(schema: type[BaseModel], manifest: str) -> dict[str, Any]:
    """Returns the OpenAPI of a batch body, which is read by hand because it streams and comes in two forms."""
    fields = schema.model_json_schema(ref_template="#/components/schemas/{model}")
    example = fields.pop("example", None)
    fields["properties"]["items"]["items"] = BatchItemIn.model_json_schema()
    others = {name: field for name, field in fields["properties"].items() if name != "items"}
    form = {
        "type": "object",
        "required": ["manifest"],
        "properties": {
            "manifest": {"type": "string", "format": "binary", "description": manifest + " CSV or JSON lines, UTF-8."},
            "photos": {"type": "string", "format": "binary", "description": "A zip with the photos."},
            **others,
        },
    }
    content = {"application/json": {"schema": fields, "example": example}, "multipart/form-data": {"schema": form}}
    return {"requestBody": {"required": True, "content": content}}


def json_body(schema: type[BaseModel]) -> dict[str, Any]:
    """Returns the OpenAPI of a JSON body, which is read by hand so that whatever cannot be read is one kind of problem."""
    fields = schema.model_json_schema(ref_template="{model}")
    parts, example = fields.pop("$defs", {}), fields.pop("example", None)

    def whole(part: Any) -> Any:
        if isinstance(part, dict):
            return whole(parts[part["$ref"]]) if "$ref" in part else {name: whole(value) for name, value in part.items()}
        return [whole(one) for one in part] if isinstance(part, list) else part

    content = {"application/json": {"schema": whole(fields), "example": example}}
    return {"requestBody": {"required": True, "content": content}}


def decisions_of(match_from: float | None, review_from: float | None) -> dict[str, float]:
    """Returns the bounds of decisions that a request overrides."""
    given = {"match": match_from, "review": review_from}
    return {name: bound for name, bound in given.items() if bound is not None}
