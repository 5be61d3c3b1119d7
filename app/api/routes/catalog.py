"""POST, GET and DELETE /catalog: the products that are matched against."""

from __future__ import annotations

import time
from typing import Annotated

from fastapi import APIRouter, Depends, File, Form, Path, Query, Request, Response, UploadFile

from app.api.audit import audit, audited_failure
from app.api.routes.common import PROBLEMS, QueriedCatalog, SentCatalog, service_of
from app.api.schemas import IMAGE_URL, AnswerOut, PageOut, ProductOut
from app.api.security import caller_of
from app.api.service import Service
from app.api.uploads import FormFields, read_json_object, read_upload
from app.catalog.base import Stored
from app.core.access import Caller
from app.core.product import Embedding, check_attributes, check_filter, check_id
from app.errors import InvalidFilter
from app.judge import Rule
from app.matcher import DEFAULT_LIMIT, MatchOptions, PreparedProduct

router = APIRouter(tags=["catalog"], responses=PROBLEMS)

ProductId = Annotated[str, Path(description="The product's id.")]

_fields = FormFields("id", "title", "attributes", "catalog", many=("image", "image_url"))


@router.post("/catalog", dependencies=[Depends(_fields)], responses={201: {"model": ProductOut}})
async def put_product(
    request: Request,
    response: Response,
    catalog: SentCatalog,
    id: Annotated[str, Form(description="The product's id; an existing product is replaced whole.")],  # noqa: A002
    title: Annotated[str | None, Form()] = None,
    image: Annotated[list[UploadFile] | None, File(description="Photos; repeat the field.")] = None,
    image_url: Annotated[list[str] | None, Form(description=IMAGE_URL + " Repeat the field; uploads come first.")] = None,
    attributes: Annotated[str | None, Form(description='Flat JSON object, e.g. {"brand": "Acme", "price": 9.5}.')] = None,
) -> ProductOut:
    """Indexes or replaces one product. Answers after it is on disk and can be found: 201 if the id was new, else 200."""
    service, caller = service_of(request), caller_of(request)
    with audited_failure(caller, "index", catalog, id):
        check_id(id)  # before a photo is fetched
        kept = check_attributes(read_json_object(attributes, "attributes"), service.matcher.limits)
        photos = [await read_upload(upload, service.settings.max_image_bytes) for upload in image or []]
        service.matcher.check_photos(len(photos) + len(image_url or []))
        async with service.fetcher.photos(image_url or []) as fetched:
            product = await service.decode(lambda: service.matcher.read_product(id, title, photos + fetched, kept))
            embedding, _ = await service.embed(product.prepared)
    stored = await service.lasting(_commit(service, caller, catalog, product, embedding))
    response.status_code = 201 if stored.created else 200
    return ProductOut.of(stored.product, catalog)


async def _commit(service: Service, caller: Caller, catalog: str, product: PreparedProduct, embedding: Embedding) -> Stored:
    with audited_failure(caller, "index", catalog, product.id):
        stored = (await service.store(catalog, [product], [embedding]))[0]
    audit(caller, "index", catalog, product.id, "created" if stored.created else "replaced")
    return stored


@router.get("/catalog")
def list_products(
    request: Request,
    catalog: QueriedCatalog,
    cursor: Annotated[str | None, Query(description="From the page before.", pattern="^[0-9]{1,18}$")] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> PageOut:
    """Lists products in the order they were first indexed."""
    store = service_of(request).matcher.catalog
    page = store.page(catalog, int(cursor or 0), limit)
    following = None if page.cursor is None else str(page.cursor)
    return PageOut(products=[ProductOut.of(p, catalog) for p in page.products], cursor=following, total=store.size(catalog))


@router.get("/catalog/{product_id:path}/image", response_class=Response, responses={200: {"content": {"image/*": {}}}})
def get_photo(
    request: Request,
    product_id: ProductId,
    catalog: QueriedCatalog,
    position: Annotated[int, Query(ge=0, description="Which photo, the first is 0.")] = 0,
) -> Response:
    """Returns a photo as it was uploaded."""
    data, media_type = service_of(request).matcher.catalog.photo(catalog, product_id, position)
    return Response(data, media_type=media_type, headers={"X-Content-Type-Options": "nosniff", "Cache-Control": "no-cache"})


@router.get("/catalog/{product_id:path}/matches")
def get_matches(
    request: Request,
    product_id: ProductId,
    catalog: QueriedCatalog,
    threshold: Annotated[float | None, Query(ge=-1, le=1)] = None,
    min_probability: Annotated[float | None, Query(ge=0, le=1, description="As in POST /match.")] = None,
    target_precision: Annotated[float | None, Query(ge=0.5, lt=1, description="As in POST /match.")] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = DEFAULT_LIMIT,
    filter: Annotated[str | None, Query(description="As in POST /match.")] = None,  # noqa: A002
) -> AnswerOut:
    """Returns the matches of a product that is in the catalog already, itself left out."""
    started = time.perf_counter()
    matcher = service_of(request).matcher
    where = check_filter(read_json_object(filter, "filter", InvalidFilter), matcher.limits)
    answer = matcher.matches_of(
        product_id, MatchOptions(threshold, limit, where, catalog, Rule(min_probability, target_precision))
    )
    return AnswerOut.of(answer, catalog, matcher.model, (time.perf_counter() - started) * 1000)


@router.get("/catalog/{product_id:path}")
def get_product(request: Request, product_id: ProductId, catalog: QueriedCatalog) -> ProductOut:
    """Returns one product."""
    return ProductOut.of(service_of(request).matcher.catalog.get(catalog, product_id), catalog)


@router.delete("/catalog/{product_id:path}", status_code=204, response_class=Response)
async def delete_product(request: Request, product_id: ProductId, catalog: QueriedCatalog) -> None:
    """Removes a product, its photos and its vectors; it is gone from every later answer."""
    service, caller = service_of(request), caller_of(request)

    async def delete() -> None:
        with audited_failure(caller, "delete", catalog, product_id):
            await service.write(lambda: service.matcher.catalog.delete(catalog, product_id))
        audit(caller, "delete", catalog, product_id, "deleted")

    await service.lasting(delete())
