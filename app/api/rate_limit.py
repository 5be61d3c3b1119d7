"""How often each key may ask: a token bucket per key, in this process."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from app.errors import RateLimited


class RateLimiter:
    """A bucket per key holds up to `burst` tokens and gains `per_s` a second; a request takes one, a batch one per item.

    Use on one event loop. A batch is let in like any request and pays afterwards, so its key may have to wait longer than
    others; nobody waits for somebody else's key.
    """

    def __init__(self, per_s: float, burst: int, clock: Callable[[], float] = time.monotonic) -> None:
        """Prepares the buckets.

        Args:
            per_s: tokens a second; 0 for no limit.
            burst: tokens that a bucket holds, >= 1.
            clock: seconds, from any start.
        """
        self._per_s, self._burst, self._clock = per_s, float(burst), clock
        self._buckets: dict[str, tuple[float, float]] = {}  # tokens, and when there were so many

    def take(self, key: str) -> None:
        """Takes the token of a request. Raises RateLimited if there is none, with the seconds until there is."""
        if not self._per_s:
            return
        tokens = self._tokens(key)
        if tokens < 1:
            wait_s = math.ceil((1 - tokens) / self._per_s)
            raise RateLimited(f"this key may ask {self._per_s:g} times a second: wait {wait_s} s.", wait_s)
        self._buckets[key] = tokens - 1, self._clock()

    def charge(self, key: str, more: int) -> None:
        """Takes the tokens of what a request turned out to hold, even if there are not so many."""
        if self._per_s:
            self._buckets[key] = self._tokens(key) - more, self._clock()

    def _tokens(self, key: str) -> float:
        tokens, since = self._buckets.get(key, (self._burst, self._clock()))
        return min(self._burst, tokens + (self._clock() - since) * self._per_s)
