"""The model in use, health, metrics, request ids, logs, and what the OpenAPI promises."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest
from fastapi.testclient import TestClient

from app.api.schemas import AnswerOut
from app.errors import EncodingFailed
from app.telemetry import request_id
from tests.api.calls import RED, ask, check_problem, found, put
from tests.api.conftest import BrokenEncoder, Start
from tests.fakes import FINGERPRINT

SECRET = "the password is swordfish"
FAILURES = [EncodingFailed(SECRET), ValueError(SECRET), RuntimeError(SECRET), MemoryError()]


def test_the_model_in_use_is_shown(client: TestClient) -> None:
    put(client, "p", "aaa", catalog="shop")
    body = client.get("/model").json()
    assert (body["name"], body["fingerprint"]) == ("fake", FINGERPRINT)
    assert (body["image_dim"], body["title_dim"]) == (3, 8)
    assert body["thresholds"] == {"fused": [[1, 0.9]], "image": [[1, 0.95]], "title": [[1, 0.8]]}
    assert body["catalogs"] == {"default": 0, "shop": 1}


def test_a_healthy_service_is_alive_and_ready(client: TestClient) -> None:
    assert client.get("/healthz").json() == {"status": "alive"}
    assert client.get("/readyz").json() == {"status": "ready"}


@pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: type(failure).__name__)
def test_readiness_fails_with_the_model_and_recovers_with_it(start: Start, failure: Exception) -> None:
    encoder = BrokenEncoder()
    client = start(encoder, ready_cache_s=0)
    assert client.get("/readyz").status_code == 200
    encoder.failure = failure
    answer = client.get("/readyz")
    check_problem(answer, [503], "not_ready")
    assert SECRET not in answer.text
    assert client.get("/healthz").status_code == 200
    encoder.failure = None
    assert client.get("/readyz").status_code == 200


@pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: type(failure).__name__)
def test_what_goes_wrong_inside_is_logged_and_not_shown(
    start: Start, failure: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    encoder = BrokenEncoder()
    client = start(encoder)
    put(client, "p", "aaa")
    encoder.failure = failure
    answers = [ask(client, "aaa"), put(client, "p", "bbb")]
    for answer in answers:
        check_problem(answer, [500])
        assert "swordfish" not in answer.text
    assert len({answer.json()["detail"] for answer in answers}) == 1
    assert any(record.exc_info and record.exc_info[1] is failure for record in caplog.records)
    encoder.failure = None
    assert client.get("/catalog/p").json()["title"] == "aaa"
    assert found(ask(client, "aaa")) == ["p"]


def test_metrics_count_requests_by_route_and_status(client: TestClient) -> None:
    put(client, "a/b", "aaa", RED)
    client.get("/catalog/a/b")
    ask(client, "")
    ask(client, "aaa")
    text = client.get("/metrics").text
    assert 'samesku_requests_total{method="POST",route="/catalog",status="201"} 1.0' in text
    assert 'samesku_requests_total{method="GET",route="/catalog/{product_id:path}",status="200"} 1.0' in text
    assert 'samesku_requests_total{method="POST",route="/match",status="422"} 1.0' in text
    assert 'samesku_rejected_total{code="invalid_title"} 1.0' in text
    assert 'samesku_products{catalog="default"} 1.0' in text
    assert f'samesku_model_info{{model="fake@{FINGERPRINT}"}} 1.0' in text
    assert 'samesku_queue_depth{stage="encode"} 0.0' in text


def test_metrics_do_not_grow_with_what_strangers_send(client: TestClient) -> None:
    client.get("/nowhere-1")
    client.request("BREW", "/match")
    client.get("/metrics")  # is counted itself from its second answer on
    before = len(client.get("/metrics").text.splitlines())
    for n in range(5):
        client.get(f"/nowhere-{n}/else")
        client.request(f"BREW{n}", "/match")
    assert len(client.get("/metrics").text.splitlines()) == before


@pytest.mark.parametrize("sent", ["abc-1.2_3", "x" * 64])
def test_a_plain_request_id_is_kept(client: TestClient, sent: str) -> None:
    assert client.get("/healthz", headers={"X-Request-ID": sent}).headers["x-request-id"] == sent
    answer = client.post("/match", data={"title": ""}, headers={"X-Request-ID": sent})
    assert answer.headers["x-request-id"] == answer.json()["request_id"] == sent


@pytest.mark.parametrize("sent", ["", "a b", "x" * 65, "a\tb", "<script>", "\u00e9", 'a"b'])
def test_a_strange_request_id_is_replaced(client: TestClient, sent: str) -> None:
    answer = client.get("/healthz", headers={b"X-Request-ID": sent.encode("latin-1")})
    assert answer.headers["x-request-id"] != sent
    assert len(answer.headers["x-request-id"]) == 32


def test_every_request_has_an_id_of_its_own(client: TestClient) -> None:
    assert len({client.get("/healthz").headers["x-request-id"] for _ in range(10)}) == 10


def test_each_request_is_one_log_line_with_its_id(client: TestClient, caplog: pytest.LogCaptureFixture) -> None:
    ids: list[str] = []

    class Witness(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            ids.append(request_id.get())

    logger, witness = logging.getLogger("app.api.middleware"), Witness()
    logger.addHandler(witness)
    try:
        with caplog.at_level(logging.INFO, "app"):
            client.post("/match", data={"title": "aaa"}, headers={"X-Request-ID": "trace-me"})
    finally:
        logger.removeHandler(witness)
    (record,) = (one for one in caplog.records if one.getMessage() == "request")
    fields = vars(record)
    assert ids == ["trace-me"]
    assert (fields["method"], fields["path"], fields["status"], fields["matches"]) == ("POST", "/match", 200, 0)
    stages = {"decode_ms", "queue_ms", "encode_ms", "search_ms", "judge_ms"}
    assert stages | {"batch_size", "took_ms"} <= fields.keys()
    assert fields["model"] == f"fake@{FINGERPRINT}"
    assert all(fields[stage] <= fields["took_ms"] for stage in stages)


# -- OpenAPI ---------------------------------------------------------------------------------------------------


@pytest.fixture
def schema(client: TestClient) -> dict[str, Any]:
    body: dict[str, Any] = client.get("/openapi.json").json()
    return body


def operations(schema: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    return [(method, path, operation) for path, item in schema["paths"].items() for method, operation in item.items()]


def test_the_openapi_names_every_call(schema: dict[str, Any]) -> None:
    assert {(method, path.replace(":path", "")) for method, path, _ in operations(schema)} == {
        ("post", "/match"), ("post", "/match/batch"), ("post", "/catalog"), ("post", "/catalog/batch"), ("get", "/catalog"),
        ("get", "/catalog/{product_id}"), ("delete", "/catalog/{product_id}"), ("get", "/catalog/{product_id}/image"),
        ("get", "/catalog/{product_id}/matches"), ("get", "/model"), ("get", "/healthz"), ("get", "/readyz"),
        ("get", "/metrics"), ("post", "/compare"), ("post", "/feedback"), ("get", "/feedback"),
            ("get", "/feedback/contradictions"),
    }  # fmt: skip
    assert all(operation["description"] for _, _, operation in operations(schema))


def test_every_call_that_can_fail_documents_its_problems_as_they_come(schema: dict[str, Any]) -> None:
    for _, path, operation in operations(schema):
        if path in ("/model", "/healthz", "/metrics"):
            continue
        failures = {status: answer for status, answer in operation["responses"].items() if status >= "400"}
        assert "503" in failures
        assert path == "/readyz" or {"404", "413", "415", "422", "429"} <= set(failures)
        for answer in failures.values():
            assert list(answer["content"]) == ["application/problem+json"]
            assert answer["content"]["application/problem+json"]["schema"] == {"$ref": "#/components/schemas/ProblemOut"}


def test_every_reference_in_the_openapi_leads_somewhere(schema: dict[str, Any]) -> None:
    text = json.dumps(schema)
    names = {part.split('"')[0] for part in text.split("#/components/schemas/")[1:]}
    assert names <= set(schema["components"]["schemas"])
    assert "#/$defs/" not in text


def test_the_examples_of_requests_run(client: TestClient, schema: dict[str, Any]) -> None:
    ran = 0
    for method, path, operation in operations(schema):
        example = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("example")
        if example is not None:
            answer = client.request(method, path, json=example)
            assert answer.status_code in (200, 201), answer.text
            assert not any("error" in json.loads(line) for line in answer.text.splitlines())
            ran += 1
    assert ran >= 3


def test_the_example_of_an_answer_is_one(schema: dict[str, Any]) -> None:
    example = schema["components"]["schemas"]["AnswerOut"]["example"]
    assert AnswerOut.model_validate(example).model_dump(mode="json") == example
