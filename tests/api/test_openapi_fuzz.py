"""Requests made up from the OpenAPI, valid and not: what comes back is what it promises, and never a server error."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import schemathesis
from hypothesis import given, settings
from schemathesis import checks
from schemathesis.core.result import Ok
from schemathesis.generation import GenerationMode
from schemathesis.schemas import APIOperation, BaseSchema

from app.core.access import Role
from tests.api.calls import RED, photos
from tests.api.conftest import running
from tests.api.keys import guarded

Operation = APIOperation[Any, Any, Any, Any]
OPERATIONS = [
    "POST /match", "POST /match/batch", "POST /compare", "POST /catalog", "POST /catalog/batch", "GET /catalog",
    "GET /catalog/{product_id}", "DELETE /catalog/{product_id}", "GET /catalog/{product_id}/image",
    "GET /catalog/{product_id}/matches", "POST /feedback", "GET /feedback", "GET /feedback/contradictions", "GET /model",
    "GET /metrics", "GET /healthz", "GET /readyz",
]  # fmt: skip
TAKE_NOTHING = ("GET /healthz", "GET /readyz", "GET /model", "GET /metrics")  # so nothing can be wrong
CASES = [
    (name, mode)
    for name in OPERATIONS
    for mode in GenerationMode
    if mode is GenerationMode.POSITIVE or name not in TAKE_NOTHING
]
# a schema cannot say that a photo or a title must be there, that a catalog must exist, or what an id may look like
TOO_STRICT = [checks.positive_data_acceptance]
A_LINE_EACH = ("POST /match/batch", "POST /catalog/batch")  # a bad item costs its own line, not the answer


@dataclass(frozen=True, slots=True)
class Described:
    """A running service, its OpenAPI, and a key for all of it."""

    url: str
    schema: BaseSchema
    key: dict[str, str]

    def operations(self) -> dict[str, Operation]:
        found = [one.ok() for one in self.schema.get_all_operations() if isinstance(one, Ok)]
        return {f"{one.method.upper()} {one.path.replace(':path', '')}": one for one in found}


@pytest.fixture(scope="module")
def described(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Described]:
    """A service with products."""
    fetching: dict[str, Any] = {"image_urls": True, "image_url_hosts": ("photos.invalid",)}
    with guarded(tmp_path_factory.mktemp("described"), **fetching) as (app, keys), running(app) as client:
        key = {"Authorization": f"Bearer {keys.create('k', Role.ADMIN, None)[0]}"}
        for name in ("p1", "0"):
            assert (
                client.post("/catalog", data={"id": name, "title": "abc"}, files=photos(RED), headers=key).status_code == 201
            )
        url = str(client.base_url)
        yield Described(url, schemathesis.openapi.from_url(f"{url}/openapi.json"), key)


def test_no_call_is_left_out(described: Described) -> None:
    assert set(described.operations()) == set(OPERATIONS)


@pytest.mark.parametrize(("name", "mode"), CASES)
def test_answers_are_as_described(described: Described, name: str, mode: GenerationMode) -> None:
    operation = described.operations()[name]
    excluded = [*TOO_STRICT, checks.negative_data_rejection] if name in A_LINE_EACH else TOO_STRICT

    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(max_examples=25)
    def check(case: schemathesis.Case[Any]) -> None:
        case.call_and_validate(base_url=described.url, headers=described.key, excluded_checks=excluded)

    check()
