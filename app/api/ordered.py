"""Many items at the same time, and their results in order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from typing import Any, TypeVar

from app.errors import AppError

Item = TypeVar("Item")
Result = TypeVar("Result")


async def in_order(
    items: Sequence[Item],
    handle: Callable[[Item], Coroutine[Any, Any, Result]],
    window: int,
    reason_to_end: Callable[[], AppError | None],
) -> AsyncIterator[Result]:
    """Yields `handle(item)` of every item in order, with at most `window` under way.

    The first item goes alone, so that its caller sees an answer before the rest is done. If there is a reason to end
    early, nothing more is begun, and what has begun is finished and yielded.

    Args:
        items: all of them.
        handle: what is done with one.
        window: how many may be under way.
        reason_to_end: asked before each item but the first.

    Raises:
        AppError: the reason to end: after what was yielded, nothing was done.
    """
    tasks: list[asyncio.Task[Result]] = []
    reason: AppError | None = None
    try:
        if items:
            yield await handle(items[0])
        for item in items[1:]:
            reason = reason_to_end()
            if reason is not None:
                break
            tasks.append(asyncio.create_task(handle(item)))
            if len(tasks) >= window:
                yield await tasks.pop(0)
        while tasks:
            yield await tasks.pop(0)
    finally:
        for task in tasks:
            task.cancel()
    if reason is not None:
        raise reason
