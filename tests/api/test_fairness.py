"""Whoever asks one question is served before what is left of a batch, over real HTTP."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence

import pytest

from app.core.product import Floats
from tests.api.calls import BATCH_CALLS, ask
from tests.api.conftest import GATED, GatedEncoder, Serve

UNDER_WAY = 4  # items of a batch, with two items per batch of the towers
MANY_LOOKS = 20_000


class RecordingEncoder(GatedEncoder):
    """Keeps the titles of each batch, as they come in."""

    def __init__(self) -> None:
        super().__init__()
        self.read: list[list[str]] = []

    def embed_titles(self, titles: Sequence[str]) -> Floats:
        self.read.append(list(titles))
        return super().embed_titles(titles)


@pytest.mark.parametrize("call", BATCH_CALLS)
def test_a_single_request_goes_before_what_is_left_of_a_batch(serve: Serve, call: str) -> None:
    encoder = RecordingEncoder()
    client = serve(encoder, max_batch_size=2)
    items = [{"id": f"p{n}", "title": title} for n, title in enumerate(["first", GATED, *(f"more {n}" for n in range(20))])]
    lines: list[str] = []

    def send() -> None:
        lines.extend(client.post(call, json={"items": items}).text.splitlines())

    batch = threading.Thread(target=send)
    single = threading.Thread(target=ask, args=(client, "single"))
    try:
        batch.start()
        assert encoder.reached.wait(60)
        single.start()
        waiting = UNDER_WAY - len(encoder.read[-1]) + 1
        line = f'samesku_queue_depth{{stage="encode"}} {waiting:.1f}'
        assert any(line in client.get("/metrics").text for _ in range(MANY_LOOKS))
    finally:
        encoder.gate.set()
        batch.join()
    single.join()
    at = next(n for n, titles in enumerate(encoder.read) if GATED in titles)
    assert encoder.read[at + 1] == ["single"]
    assert len(lines) == len(items)
    assert not any("error" in json.loads(line) for line in lines)
