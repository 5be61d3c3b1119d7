"""Results of functions of texts, remembered within a bound of memory and not only of their number."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, wraps
from typing import TypeVar

Result = TypeVar("Result")


def remembered(kept: int, longest: int) -> Callable[[Callable[..., Result]], Callable[..., Result]]:
    """Makes a function of texts remember what it returned last.

    What is read out of a text may take a hundred times its length: thousands of long ones, sent on purpose, would fill the
    memory. So long ones are read again each time.

    Args:
        kept: how many results.
        longest: characters of the arguments, together, of a result that is kept.
    """

    def decorate(function: Callable[..., Result]) -> Callable[..., Result]:
        cached = lru_cache(kept)(function)

        @wraps(function)
        def call(*texts: str) -> Result:
            return cached(*texts) if sum(map(len, texts)) <= longest else function(*texts)

        call.cache_info = cached.cache_info  # type: ignore[attr-defined]
        return call

    return decorate
