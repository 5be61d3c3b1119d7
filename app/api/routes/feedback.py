"""POST and GET /feedback: what people say about pairs."""

from __future__ import annotations

from itertools import islice
from typing import Annotated

from fastapi import APIRouter, Query, Request

from app.api.audit import audit, audited_failure
from app.api.feedback_schemas import ContradictionsOut, FeedbackIn, FeedbackOut, FeedbackPageOut
from app.api.routes.common import PROBLEMS, QueriedCatalog, json_body, service_of
from app.api.security import caller_of, visible
from app.api.uploads import read_json
from app.core.feedback import contradictions
from app.core.statements import Statement

router = APIRouter(tags=["feedback"], responses=PROBLEMS)


@router.post("/feedback", status_code=201, openapi_extra=json_body(FeedbackIn))
async def add_feedback(request: Request) -> FeedbackOut:
    """Stores what a person says about a pair: the same product, or not. Answers after it is on disk.

    The titles and the photos' digests that the products have now are kept with it, whatever becomes of the products.
    """
    service, caller = service_of(request), caller_of(request)
    sent = await read_json(request, FeedbackIn, service.settings.max_feedback_bytes)
    catalog, draft = visible(request, sent.catalog), sent.draft()

    async def store() -> Statement:
        with audited_failure(caller, "feedback", catalog, draft.first.id):
            stored = await service.write(lambda: service.matcher.add_feedback(catalog, draft))
        audit(caller, "feedback", catalog, draft.first.id, "stored")
        return stored

    stored = await service.lasting(store())
    service.metrics.feedback.labels("same" if stored.same else "different").inc()
    return FeedbackOut.of(stored)


@router.get("/feedback")
def list_feedback(
    request: Request,
    catalog: QueriedCatalog,
    cursor: Annotated[str | None, Query(description="From the page before.", pattern="^[0-9]{1,18}$")] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> FeedbackPageOut:
    """Lists statements, newest first, those too that a later one of the same person has replaced."""
    before = None if cursor is None else int(cursor)
    page = service_of(request).matcher.catalog.feedback.page(catalog, before, limit)
    following = None if page.cursor is None else str(page.cursor)
    return FeedbackPageOut(statements=[FeedbackOut.of(one) for one in page.statements], cursor=following, total=page.total)


@router.get("/feedback/contradictions")
def list_contradictions(
    request: Request,
    catalog: QueriedCatalog,
    limit: Annotated[int, Query(ge=1, le=1000, description="Contradictions to return.")] = 100,
) -> ContradictionsOut:
    """Returns pairs that are said to differ although others, or a chain of others, say that they are the same.

    Of each person and pair the latest statement counts.
    """
    statements = service_of(request).matcher.catalog.feedback.statements(catalog)
    found = list(islice(contradictions(statements), limit + 1))
    return ContradictionsOut.of(found[:limit], len(found) > limit, catalog)
