"""One call through the door, around an app of a few lines."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send

from app.api.admission import Admission, outside
from app.api.door import Door, Places
from app.telemetry import Metrics

GUARD_S = 10


def call(app: Callable[[Scope, Receive, Send], Awaitable[None]], door: Door) -> list[Message]:
    """Sends a request without a body to work on; returns what the app answers."""
    sent: list[Message] = []

    async def receive() -> Message:
        await asyncio.sleep(GUARD_S)
        raise AssertionError("nobody comes")

    async def send(message: Message) -> None:
        sent.append(message)

    scope: dict[str, Any] = {"type": "http", "method": "POST", "path": "/match", "headers": []}
    asyncio.run(Admission(app, door, Metrics(), GUARD_S)(scope, receive, send))
    return sent


async def ok(send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b""})


def test_who_waits_for_something_outside_holds_no_place() -> None:
    places = Places(4.0, 1)
    seen: list[int] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(places.taken)
        with outside():
            seen.append(places.taken)
        seen.append(places.taken)
        await ok(send)

    assert call(app, Door(places, 1, 1))[0]["status"] == 200
    assert [*seen, places.taken] == [1, 0, 1, 0]


def test_a_place_that_was_taken_meanwhile_is_gone() -> None:
    places = Places(4.0, 1)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        with outside():
            places.take()
        await ok(send)

    assert call(app, Door(places, 1, 1))[0]["status"] == 429
    assert places.taken == 1


def test_what_fails_outside_takes_no_place() -> None:
    places = Places(4.0, 1)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        with pytest.raises(ValueError, match="unreachable"), outside():
            raise ValueError("unreachable")
        assert places.taken == 0
        await ok(send)

    assert call(app, Door(places, 1, 1))[0]["status"] == 200
    assert places.taken == 0


def test_without_a_call_nothing_is_held() -> None:
    with outside():
        pass
