"""POST /compare: are these two the same?"""

from __future__ import annotations

import time
from typing import Annotated

from fastapi import APIRouter, Depends, File, Form, Request, UploadFile

from app.api.routes.common import PROBLEMS, decisions_of, service_of
from app.api.schemas import VerdictOut
from app.api.uploads import FormFields, read_upload
from app.judge import Rule, check_rule
from app.matcher import reading_side

router = APIRouter(tags=["match"], responses=PROBLEMS)

_fields = FormFields("left_image", "left_title", "right_image", "right_title", "match_from", "review_from")

Photo = Annotated[UploadFile | None, File(description="A photo: JPEG, PNG, WebP, AVIF, GIF, BMP or TIFF.")]
Title = Annotated[str | None, Form(description="A title, in any language.")]
Bound = Annotated[float | None, Form(ge=0, le=1, description="Probability; default: the model's own.")]


@router.post("/compare", dependencies=[Depends(_fields)])
async def compare(
    request: Request,
    left_image: Photo = None,
    left_title: Title = None,
    right_image: Photo = None,
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
    for side, image, title in (("left", left_image, left_title), ("right", right_image, right_title)):
        with reading_side(side):
            data = None if image is None else await read_upload(image, service.settings.max_image_bytes)
            prepared.append(await service.decode(lambda data=data, title=title: service.matcher.read_query(data, title)))  # type: ignore[misc]
    verdict = await service.compare((prepared[0], prepared[1]), rule)
    return VerdictOut.of(verdict, service.matcher.model, (time.perf_counter() - started) * 1000)
