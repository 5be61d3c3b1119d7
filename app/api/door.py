"""Who is let in: as many requests as are answered in good time, at the pace at which they are being answered.

A queue that is bounded by a number of items is too long on a slow machine and too short on a fast one. What counts is how
long somebody waits: by Little's law the requests at work, over those that are finished per second. So the door lets in as
many as keep that within a few times what a request takes that has the service to itself. Both are measured, from what was
answered lately. Nobody waits outside: who finds no place is told so at once, before the body is read, and when to come back.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable
from statistics import median
from typing import Protocol

from app.errors import AppError, Overloaded, ShuttingDown

LEAST = 16  # requests at work that are let in whatever the pace: what is slow is better than refused, for so few
FEW = 4  # the same, while as many are refused as are answered
ALONE = 31  # requests that had the service to themselves, of which the median counts
UNKNOWN_S = 0.1  # what a request takes alone, before one did
BURST = 4  # times as many as the pace allows are let in as long as it is a burst
BURST_LASTS = 3  # times as long as a request should take
WINDOW_S = 0.5  # of work, after which the pace is renewed
MOST_RETRY_S = 30


class Places:
    """How many requests may be at work. Use on one event loop."""

    def __init__(self, slowdown: float, fixed: int = 0, clock: Callable[[], float] = time.monotonic) -> None:
        """Begins with the smallest number.

        Args:
            slowdown: how many times as long as alone a request may take.
            fixed: how many may be at work, whatever the pace; 0 to go by the pace.
            clock: seconds, from any start.
        """
        self._slowdown, self._fixed, self._clock = slowdown, fixed, clock
        self.taken = 0
        self._crowd_s = self._crowd_since = -math.inf  # when there was last no place, and since when
        self._alone_s: deque[float] = deque(maxlen=ALONE)
        self._crowded = False  # somebody came while somebody else was at work
        self._pace: float | None = None  # finished per second in which there was work
        self._marked = clock()
        self._busy_s = 0.0
        self._served = self._refused = 0
        self._retry_s = 1
        self._flooded = False  # as many were refused lately as were answered

    @property
    def good_s(self) -> float:
        """How long a request should take at most."""
        return self._slowdown * (median(self._alone_s) if self._alone_s else UNKNOWN_S)

    @property
    def limit(self) -> int:
        """How many may be at work for long."""
        return self._fixed or max(self._least, self._in_good_time)

    @property
    def _least(self) -> int:
        return FEW if self._flooded else LEAST

    @property
    def _in_good_time(self) -> int:
        return round((self._pace or 0) * self.good_s)

    def check(self) -> None:
        """Raises Overloaded if there is no place."""
        if self.taken < self.limit or (not self._fixed and self._is_burst()):
            return
        self._refused += 1
        raise Overloaded(f"{self.taken} requests are being worked on: try again later.", self._retry_s)

    def _is_burst(self) -> bool:
        """True if there were fewer just now: many who come at once are let in, many who keep coming are not."""
        now, good_s = self._clock(), self.good_s
        if now - self._crowd_s > good_s:
            self._crowd_since = now
        self._crowd_s = now
        return self.taken < max(self._least, BURST * self._in_good_time) and now - self._crowd_since < BURST_LASTS * good_s

    def take(self) -> float:
        """Takes a place; returns when. Raises Overloaded if there is none."""
        self.check()
        self._mark()
        self.taken += 1
        self._crowded = self.taken > 1 or self._crowded
        return self._clock()

    def leave(self, since: float, *, served: bool) -> None:
        """Gives a place back.

        Args:
            since: when it was taken.
            served: whether it was answered well; what was refused or given up says nothing of how long work takes.
        """
        self._mark()
        self.taken -= 1
        if served:
            self._served += 1
            if not self._crowded:
                self._alone_s.append(self._clock() - since)
        self._crowded = self._crowded and self.taken > 0
        if self._busy_s >= WINDOW_S and self._served:
            pace = self._served / self._busy_s
            self._pace = pace if self._pace is None else (self._pace + pace) / 2
            # if everybody who asks comes back after that many seconds, there are as many as can be served
            self._retry_s = min(MOST_RETRY_S, math.ceil(1 + self._refused / self._served))
            self._flooded = self._refused >= self._served
            self._served = self._refused = 0
            self._busy_s = 0.0

    def _mark(self) -> None:
        now = self._clock()
        if self.taken:
            self._busy_s += now - self._marked
        self._marked = now


class Ends(Protocol):
    """A call that can be ended before it is answered."""

    def end(self, reason: AppError) -> None:
        """Cancels what it still waits for."""


class Door:
    """What all requests share: places for work, room for bodies and batches, and whether the service is closing."""

    def __init__(self, places: Places, max_batches: int, max_body_bytes: int) -> None:
        """Opens the door.

        Args:
            places: for single requests that take work.
            max_batches: batch calls at the same time.
            max_body_bytes: bodies in the house, of all requests together.
        """
        self.places, self._max_batches, self._max_body_bytes = places, max_batches, max_body_bytes
        self.closing = False
        self.batches = self.body_bytes = 0
        self._calls: set[Ends] = set()

    def close(self) -> None:
        """Lets nobody in any more. May be called from a signal handler."""
        self.closing = True

    @property
    def inside(self) -> int:
        """Calls that are not answered yet."""
        return len(self._calls)

    def enter(self, call: Ends) -> None:
        """Counts a call in. Raises ShuttingDown."""
        if self.closing:
            raise ShuttingDown
        self._calls.add(call)

    def leave(self, call: Ends) -> None:
        """Counts a call out."""
        self._calls.discard(call)

    def cut(self) -> None:
        """Ends all calls that are inside."""
        for call in list(self._calls):
            call.end(ShuttingDown())

    def check_batch(self) -> None:
        """Raises Overloaded if as many batches run as may."""
        if self.batches >= self._max_batches:
            raise Overloaded(f"{self.batches} batches are under way, as many as are taken: send this one after them.", 10)

    def take_batch(self) -> None:
        """Lets a batch begin. Raises Overloaded."""
        self.check_batch()
        self.batches += 1

    def give_back_batch(self) -> None:
        """A batch has ended."""
        self.batches -= 1

    def carry(self, more_bytes: int) -> None:
        """Makes room for a piece of a body. Raises Overloaded if the bodies in the house are too large together."""
        if self.body_bytes + more_bytes > self._max_body_bytes:
            raise Overloaded("the bodies that are being sent are too large together: try again in a moment.", 5)
        self.body_bytes += more_bytes
