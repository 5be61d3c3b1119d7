"""POST /compare: are these two the same?"""

from __future__ import annotations

import time
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Depends, File, Form, Request, UploadFile

from app.api.routes.common import PROBLEMS, decisions_of, one_photo, service_of
from app.api.schemas import IMAGE_URL, VerdictOut
from app.api.uploads import FormFields
from app.judge import Rule, check_rule
from app.matcher import reading_side

router = APIRouter(tags=["match"], responses=PROBLEMS)

_fields = FormFields(
    *(f"{side}_{field}" for side in ("left", "right") for field in ("image", "image_url", "title")),
    "match_from",
    "review_from",
)

Photo = Annotated[UploadFile | None, File(description="A photo: JPEG, PNG, WebP, AVIF, GIF, BMP or TIFF.")]
Url = Annotated[str | None, Form(description=IMAGE_URL)]
Title = Annotated[str | None, Form(description="A title, in any language.")]
Bound = Annotated[float | None, Form(ge=0, le=1, description="Probability; default: the model's own.")]


@router.post("/compare", dependencies=[Depends(_fields)])
async def compare(
    request: Request,
    left_image: Photo = None,
    left_image_url: Url = None,
    left_title: Title = None,
    right_image: Photo = None,
    right_image_url: Url = None,
    right_title: Title = None,
    match_from: Bound = None,
    review_from: Bound = None,
) -> VerdictOut:
    """Judges two products by themselves, without a catalog. Send a photo, a title, or both for each side."""
    started = time.perf_counter()
    service = service_of(request)
    rule = Rule(decisions=decisions_of(match_from, review_from))
    check_rule(rule, None)
    prepared = []
    sides = ("left", left_image, left_image_url, left_title), ("right", right_image, right_image_url, right_title)
    for side, image, url, title in sides:
        with reading_side(side):
            async with one_photo(service, image, url) as data:
                read = partial(service.matcher.read_query, data, title)
                prepared.append(await service.decode(read))
    verdict = await service.compare((prepared[0], prepared[1]), rule)
    return VerdictOut.of(verdict, service.matcher.model, (time.perf_counter() - started) * 1000)
