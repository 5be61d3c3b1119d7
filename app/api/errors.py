"""One table: error class -> HTTP status. One shape: RFC 9457 problem details."""

from __future__ import annotations

import errno
import http
import json
import logging
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from app.errors import (
    AppError,
    DeadlineExceeded,
    Forbidden,
    InvalidInput,
    NotFound,
    NotReady,
    Overloaded,
    PayloadTooLarge,
    StorageUnavailable,
    Unauthenticated,
    UnsupportedMedia,
)
from app.telemetry import request_id

log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"
INTERNAL = "Something went wrong on our side. Quote the request id when you report it."

STATUS: dict[type[AppError], int] = {
    InvalidInput: 422,
    Unauthenticated: 401,
    Forbidden: 403,
    UnsupportedMedia: 415,
    PayloadTooLarge: 413,
    NotFound: 404,
    Overloaded: 429,
    NotReady: 503,
    StorageUnavailable: 503,
    DeadlineExceeded: 504,
}
TOO_LARGE = PayloadTooLarge.code, "the body is larger than this call takes: send less at once."
HEADERS_TOO_LARGE = "headers_too_large", "address and headers are larger than is taken: send less in them."
_HTTP_CODES = {
    400: "bad_request", 404: "not_found", 405: "method_not_allowed", 413: PayloadTooLarge.code, 429: Overloaded.code,
}  # fmt: skip
_NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}


def ours(error: Exception) -> Exception:
    """Returns an error as one of ours, if it says that uploads cannot be put aside: larger ones pass through files."""
    cause = error.__cause__ if isinstance(error, HTTPException) else error  # FastAPI takes it for a form that is wrong
    if isinstance(cause, OSError) and cause.errno in _NO_SPACE:
        return StorageUnavailable("there is no space for uploads just now: nothing was changed, try again later.")
    return error


def status_of(error: Exception) -> int:
    """Returns the HTTP status of an error: that of its nearest listed class, 500 for everything else."""
    return next((STATUS[cls] for cls in type(error).__mro__ if cls in STATUS), 500)


def code_of(error: Exception) -> str:
    """Returns the stable name of what went wrong."""
    error = ours(error)
    return error.code if isinstance(error, AppError) else AppError.code


def headers_of(error: Exception) -> dict[str, str]:
    """Returns the headers that go with an error: when to come back, or how to say who one is."""
    error = ours(error)
    if isinstance(error, Overloaded | StorageUnavailable):
        return {"Retry-After": str(error.retry_after_s)}
    return {"WWW-Authenticate": "Bearer"} if isinstance(error, Unauthenticated) else {}


def problem(status: int, code: str, detail: str, **more: Any) -> dict[str, Any]:
    """Returns the body of a problem answer; `code` is stable, `detail` is for people."""
    title = http.HTTPStatus(status).phrase
    body = {"type": f"urn:samesku:error:{code}", "title": title, "status": status, "code": code, "detail": detail}
    return body | {"request_id": request_id.get()} | more


def problem_of(error: Exception) -> dict[str, Any]:
    """Returns the problem of any exception; what went wrong inside is logged and never shown."""
    known = ours(error)
    if known is not error:
        log.error("uploads cannot be put aside: make room where temporary files are kept", exc_info=error)
    status, error = status_of(known), known
    if status == 500 or not isinstance(error, AppError):
        log.error("unexpected error", exc_info=error)
        return problem(500, code_of(error), INTERNAL)
    return problem(status, error.code, str(error))


def problem_response(body: dict[str, Any], headers: dict[str, str] | None = None) -> Response:
    """Returns the answer for a problem; pure ASCII, since the detail may quote broken Unicode."""
    return Response(json.dumps(body), body["status"], headers, media_type=MEDIA_TYPE)


def install(app: FastAPI) -> None:
    """Makes every error answer of the app a problem."""

    def answer(request: Request, body: dict[str, Any], headers: dict[str, str] | None = None) -> Response:
        request.app.state.metrics.rejected.labels(body["code"]).inc()
        return problem_response(body, headers)

    async def on_app_error(request: Request, error: Exception) -> Response:
        return answer(request, problem_of(error), headers_of(error))

    async def on_validation_error(request: Request, error: Exception) -> Response:
        details = error.errors() if isinstance(error, RequestValidationError) else []
        problems = [{"field": ".".join(str(part) for part in e["loc"][1:]), "problem": e["msg"]} for e in details]
        detail = "; ".join(f"{p['field'] or 'body'}: {p['problem']}" for p in problems)
        return answer(request, problem(422, InvalidInput.code, detail, errors=problems))

    async def on_http_error(request: Request, error: Exception) -> Response:
        if isinstance(ours(error), AppError):
            return await on_app_error(request, error)
        status, detail, headers = 500, INTERNAL, None
        if isinstance(error, HTTPException):
            status, detail, headers = error.status_code, str(error.detail), dict(error.headers or {})
        if status == 413:
            detail = TOO_LARGE[1]
        return answer(request, problem(status, _HTTP_CODES.get(status, "http_error"), detail), headers)

    app.add_exception_handler(AppError, on_app_error)
    app.add_exception_handler(OSError, on_app_error)
    app.add_exception_handler(RequestValidationError, on_validation_error)
    app.add_exception_handler(HTTPException, on_http_error)
