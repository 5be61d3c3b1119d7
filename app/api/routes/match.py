"""POST /match: which products are the same as this?"""

from __future__ import annotations

import time
from typing import Annotated

from fastapi import APIRouter, Depends, File, Form, Request, UploadFile

from app.api.routes.common import PROBLEMS, SentCatalog, decisions_of, one_photo, service_of
from app.api.schemas import IMAGE_URL, AnswerOut
from app.api.uploads import FormFields, read_json_object
from app.core.product import check_filter
from app.errors import InvalidFilter, InvalidInput
from app.judge import Rule
from app.matcher import DEFAULT_LIMIT, MatchOptions

RULE_FIELDS = ("min_probability", "target_precision", "match_from", "review_from")

router = APIRouter(tags=["match"], responses=PROBLEMS)

_fields = FormFields("image", "image_url", "title", "threshold", *RULE_FIELDS, "verify", "limit", "filter", "catalog")


@router.post("/match", dependencies=[Depends(_fields)])
async def match(
    request: Request,
    catalog: SentCatalog,
    image: Annotated[UploadFile | None, File(description="A photo: JPEG, PNG, WebP, AVIF, GIF, BMP or TIFF.")] = None,
    image_url: Annotated[str | None, Form(description=IMAGE_URL)] = None,
    title: Annotated[str | None, Form(description="A title, in any language.")] = None,
    threshold: Annotated[float | None, Form(ge=-1, le=1, description="Smallest score; default: the model's own.")] = None,
    min_probability: Annotated[
        float | None, Form(ge=0, le=1, description="Instead of a threshold: smallest probability.")
    ] = None,
    target_precision: Annotated[
        float | None, Form(ge=0.5, lt=1, description="Instead of a threshold: share of matches that are to be right.")
    ] = None,
    match_from: Annotated[
        float | None, Form(ge=0, le=1, description="Probability where `decision` becomes `match`.")
    ] = None,
    review_from: Annotated[float | None, Form(ge=0, le=1, description="Probability where it turns `review`.")] = None,
    verify: Annotated[bool, Form(description="Check the photos of doubtful matches by geometry; some 40 ms each.")] = False,
    limit: Annotated[int, Form(ge=1, le=1000, description="Matches to return.")] = DEFAULT_LIMIT,
    filter: Annotated[str | None, Form(description='Attributes, e.g. {"brand": ["Acme", "Apex"]}: any of.')] = None,  # noqa: A002
) -> AnswerOut:
    """Returns every product that is the same, best first. Send a photo, a title, or both.

    The rule is a threshold of the score, unless `min_probability` or `target_precision` is sent.
    """
    started = time.perf_counter()
    service = service_of(request)
    where = check_filter(read_json_object(filter, "filter", InvalidFilter), service.matcher.limits)
    rule = Rule(min_probability, target_precision, decisions_of(match_from, review_from))
    options = MatchOptions(threshold, limit, where, catalog, rule)
    service.matcher.judge.bound(rule)  # a rule that the model cannot follow is refused before anything costs time
    service.matcher.catalog.size(catalog)  # an unknown catalog is refused before anything costs time
    if verify and image is None and image_url is None:
        raise InvalidInput("verify compares photos: send one, or leave it out.")
    async with one_photo(service, image, image_url) as data:
        prepared = await service.decode(lambda: service.matcher.read_query(data, title))
        answer = await service.match(prepared, options)
        if verify and data is not None:
            answer = await service.verify(data, catalog, answer)
    request.state.log["matches"] = answer.total
    return AnswerOut.of(answer, catalog, service.matcher.model, (time.perf_counter() - started) * 1000)
