"""Batches over real HTTP: the first lines come while the rest is worked on, and a caller may leave."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from tests.api.calls import BATCH_CALLS, ask, found, put
from tests.api.conftest import GATED, GatedEncoder, Serve

FORMS = ("JSON", "manifest")
MANY_LOOKS = 20_000


def body(form: str, titles: list[str]) -> dict[str, Any]:
    items = [{"id": f"p{n}", "title": title} for n, title in enumerate(titles)]
    if form == "JSON":
        return {"json": {"items": items}}
    return {"files": {"manifest": ("m.jsonl", "\n".join(map(json.dumps, items)).encode())}}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("call", BATCH_CALLS)
def test_the_first_line_arrives_before_the_last_item_is_done(serve: Serve, call: str, form: str) -> None:
    encoder = GatedEncoder()
    client = serve(encoder, max_batch_size=4)
    titles = [f"title {n}" for n in range(20)] + [GATED]
    try:
        with client.stream("POST", call, **body(form, titles)) as answer:
            assert answer.status_code == 200
            arriving = answer.iter_lines()
            first = json.loads(next(arriving))
            assert not encoder.gate.is_set()
            assert first["index"] == 0
            assert "error" not in first
            encoder.gate.set()
            rest = [json.loads(line) for line in arriving]
    finally:
        encoder.gate.set()
    assert [one["index"] for one in rest] == list(range(1, 21))
    assert not any("error" in one for one in rest)


@pytest.mark.parametrize("call", BATCH_CALLS)
def test_a_caller_that_leaves_costs_nobody_else_anything(serve: Serve, call: str) -> None:
    encoder = GatedEncoder()
    client = serve(encoder, max_batch_size=4, max_queue=8)
    put(client, "mine", "red abc")
    try:
        with client.stream("POST", call, **body("JSON", ["title", GATED] + ["more"] * 500)) as answer:
            arriving = answer.iter_lines()
            next(arriving)
            assert encoder.reached.wait(60)
    finally:
        encoder.gate.set()  # the stream is closed: the caller has gone
    assert found(ask(client, "red abc")) == ["mine"]
    assert client.get("/readyz").status_code == 200
    assert queues(client).keys() >= {"encode", "search", "decode"}
    assert any(not any(queues(client).values()) for _ in range(MANY_LOOKS))
    assert found(ask(client, "red abc")) == ["mine"]


def queues(client: httpx.Client) -> dict[str, float]:
    found = {}
    for line in client.get("/metrics").text.splitlines():
        if line.startswith("samesku_queue_depth{"):
            name, value = line.split()
            found[name.split('"')[1]] = float(value)
    return found
