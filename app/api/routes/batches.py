"""POST /match/batch and POST /catalog/batch: many at once, answered line by line."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import StreamingResponse

from app.api.audit import audit
from app.api.errors import code_of, problem_of
from app.api.ordered import in_order
from app.api.routes.common import (
    NDJSON,
    PROBLEMS,
    batch_body,
    count_items,
    deadline_of,
    decisions_of,
    last_line,
    line,
    service_of,
)
from app.api.schemas import AnswerOut, CatalogBatchIn, MatchBatchIn
from app.api.security import caller_of, visible
from app.api.service import Service
from app.api.uploads import Batch, BatchItem, BatchLimits, closed_on_error, read_batch
from app.core.access import Caller
from app.core.product import Embedding, Prepared, ProductLimits, check_filter
from app.errors import DeadlineExceeded, InvalidInput, ShuttingDown
from app.judge import Rule
from app.listings import BadRow, Listing
from app.matcher import DEFAULT_LIMIT, MatchOptions, PreparedProduct

router = APIRouter(tags=["batches"], responses=PROBLEMS)


@router.post(
    "/match/batch",
    response_class=StreamingResponse,
    responses={200: {"content": {NDJSON: {}}, "description": "One line per item, in order: an answer, or an error."}},
    openapi_extra=batch_body(
        MatchBatchIn, "Queries: columns `title`, `image` (a name in the zip) or `image_url`, optionally `id`."
    ),
)
async def match_batch(request: Request) -> StreamingResponse:
    """Matches many queries. Send JSON items, or a CSV/JSONL manifest with a zip of photos.

    Lines arrive while later items are still being worked on. A bad item costs that item an `error` line, nothing else.
    """
    service = service_of(request)
    batch = await read_batch(request, MatchBatchIn, BatchLimits.of(service.settings, service.matcher.limits))
    async with closed_on_error(batch):
        visible(request, batch.options["catalog"])
        options = _match_options(batch.options, service.matcher.limits)
        service.matcher.catalog.size(options.catalog)
        service.matcher.judge.bound(options.rule)
    count_items(request, len(batch.items))
    return StreamingResponse(_match_lines(service, batch, options, deadline_of(request)), media_type=NDJSON)


def _match_options(fields: Mapping[str, Any], limits: ProductLimits) -> MatchOptions:
    limit = DEFAULT_LIMIT if fields["limit"] is None else fields["limit"]
    decisions = decisions_of(fields["match_from"], fields["review_from"])
    rule = Rule(fields["min_probability"], fields["target_precision"], decisions)
    return MatchOptions(fields["threshold"], limit, check_filter(fields["filter"], limits), fields["catalog"], rule)


async def _match_lines(
    service: Service, batch: Batch, options: MatchOptions, deadline_s: float | None
) -> AsyncIterator[bytes]:
    async def answer(item: BatchItem) -> bytes:
        try:
            async with _photos_fetched(service, item, 1) as whole:
                return line(item, await service.patiently(lambda: _match_one(service, whole, options)))
        except Exception as error:  # noqa: BLE001 - one bad item costs that item a line
            return line(item, {"error": _refused(service, error)})

    ending, sent = partial(service.reason_to_end, deadline_s), 0
    try:
        async for one in in_order(batch.items, answer, 2 * service.settings.max_batch_size, ending):
            yield one
            sent += 1
    except (ShuttingDown, DeadlineExceeded) as error:
        yield last_line(error, sent)
    finally:
        await batch.close()


async def _match_one(service: Service, item: BatchItem, options: MatchOptions) -> dict[str, Any]:
    started = time.perf_counter()
    prepared = await service.decode(lambda: _read_query(service, item), bulk=True)
    answer = await service.match(prepared, options, bulk=True)
    took_ms = (time.perf_counter() - started) * 1000
    return AnswerOut.of(answer, options.catalog, service.matcher.model, took_ms).model_dump(mode="json")


def _read_query(service: Service, item: BatchItem) -> Prepared:
    listing = _load(item)
    if len(listing.images) > 1:
        raise InvalidInput(f"a query takes one photo, this one has {len(listing.images)}: send one.")
    return service.matcher.read_query(listing.images[0] if listing.images else None, listing.title)


@router.post(
    "/catalog/batch",
    response_class=StreamingResponse,
    responses={200: {"content": {NDJSON: {}}, "description": "One line per item, in order: its status, or an error."}},
    openapi_extra=batch_body(
        CatalogBatchIn,
        "Products: columns `id`, `title`, `image` (names in the zip) and `image_url`, several joined by `|`; others become "
        "attributes.",
    ),
)
async def put_batch(request: Request) -> StreamingResponse:
    """Indexes or replaces many products. Send JSON items, or a CSV/JSONL manifest with a zip of photos.

    A line with `status` means that this product is on disk. A bad item costs that item an `error` line, nothing else.
    """
    service = service_of(request)
    batch = await read_batch(request, CatalogBatchIn, BatchLimits.of(service.settings, service.matcher.limits))
    async with closed_on_error(batch):
        catalog = visible(request, batch.options["catalog"])
    count_items(request, len(batch.items))
    lines = _store_lines(service, batch, catalog, caller_of(request), deadline_of(request))
    return StreamingResponse(lines, media_type=NDJSON)


async def _store_lines(
    service: Service, batch: Batch, catalog: str, caller: Caller, deadline_s: float | None
) -> AsyncIterator[bytes]:
    size, items = service.settings.max_batch_size, batch.items
    chunks = [items[:1]] + [items[start : start + size] for start in range(1, len(items), size)]

    async def store(chunk: Sequence[BatchItem]) -> list[bytes]:
        return await _store_chunk(service, chunk, catalog, caller)

    ending, sent = partial(service.reason_to_end, deadline_s), 0
    try:
        async for lines in in_order(chunks, store, 2, ending):
            for one in lines:
                yield one
            sent += len(lines)
    except (ShuttingDown, DeadlineExceeded) as error:
        yield last_line(error, sent)
    finally:
        await batch.close()


async def _store_chunk(service: Service, chunk: Sequence[BatchItem], catalog: str, caller: Caller) -> list[bytes]:
    """Embeds a chunk together and commits it together; items that fail are left out of the commit."""
    read = await asyncio.gather(*(_embed(service, item) for item in chunk), return_exceptions=True)
    return await service.lasting(_commit_chunk(service, chunk, read, catalog, caller))


async def _commit_chunk(
    service: Service,
    chunk: Sequence[BatchItem],
    read: Sequence[tuple[PreparedProduct, Embedding] | BaseException],
    catalog: str,
    caller: Caller,
) -> list[bytes]:
    good = [pair for pair in read if not isinstance(pair, BaseException)]
    try:
        stored = iter(await service.store(catalog, [p for p, _ in good], [e for _, e in good]))
    except Exception as error:  # noqa: BLE001 - the commit failed: each item of it says so
        for item in chunk:
            audit(caller, "index", catalog, item.id, code_of(error))
        return [line(item, {"error": _refused(service, error)}) for item in chunk]
    outcomes: list[dict[str, Any]] = []
    for one in read:
        if isinstance(one, Exception):
            outcomes.append({"error": _refused(service, one)})
        elif isinstance(one, BaseException):
            raise one
        else:
            outcomes.append({"status": "created" if next(stored).created else "replaced"})
    for item, outcome in zip(chunk, outcomes, strict=True):
        audit(caller, "index", catalog, item.id, outcome.get("status") or outcome["error"]["code"])
    return [line(item, outcome) for item, outcome in zip(chunk, outcomes, strict=True)]


async def _embed(service: Service, item: BatchItem) -> tuple[PreparedProduct, Embedding]:
    async with _photos_fetched(service, item, service.matcher.limits.photos) as whole:

        async def step() -> tuple[PreparedProduct, Embedding]:
            product = await service.decode(lambda: _read_product(service, whole), bulk=True)
            return product, (await service.embed(product.prepared, bulk=True))[0]

        return await service.patiently(step)


@asynccontextmanager
async def _photos_fetched(service: Service, item: BatchItem, most: int) -> AsyncIterator[BatchItem]:
    """Fetches the photos that an item names by their addresses, before it takes a place among the items that are worked on.

    Raises:
        InvalidInput: there are more than `most`, or what is wrong with the item. Others as `Fetcher.photos`.
    """
    if not item.remote:
        yield item
        return
    listing = await service.patiently(lambda: service.decode(lambda: _load(item), bulk=True))
    if len(listing.images) + len(listing.image_urls) > most:
        raise InvalidInput(f"there are more than {most} photos: send fewer.")
    async with service.fetcher.photos(listing.image_urls, bulk=True) as photos:
        whole = replace(listing, images=(*listing.images, *photos), image_urls=())
        yield replace(item, load=lambda: whole)


def _read_product(service: Service, item: BatchItem) -> PreparedProduct:
    listing = _load(item)
    if item.id is None:
        raise InvalidInput("the product has no id: give every item its own.")
    return service.matcher.read_product(item.id, listing.title, listing.images, listing.attributes)


def _refused(service: Service, error: Exception) -> dict[str, Any]:
    problem = problem_of(error)
    service.metrics.rejected.labels(problem["code"]).inc()
    return problem


def _load(item: BatchItem) -> Listing:
    listing = item.load()
    if isinstance(listing, BadRow):
        raise listing.error
    return listing
