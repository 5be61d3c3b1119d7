"""Who goes next: two waiting lines before one worker, for single requests and for the items of bulk work.

The two take turns. When it is the single requests' turn all of them go, as far as they fit, and alone: nothing of the bulk
makes their batch longer. When it is the bulk's turn a slice of it goes. So somebody who asks one question waits for one
slice, however long the bulk's line is; and the bulk gets its slice after every batch of single requests, however many
there are.

While somebody who asks one question is being served elsewhere (the photo is decoded, another worker has it), the bulk is
held back, so that it does not take the cores; but never for longer than `HOLD_S` at a time. Slices are small while single
requests come, and double with every second without any: a bulk that is alone loses nothing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Generic, Protocol, TypeVar

LEAST_SLICE = 2  # measured in docs/performance.md
DOUBLING_S = 1.0
HOLD_S = 0.1


class Place(Protocol):
    """Somebody who waits."""

    @property
    def weight(self) -> int:
        """What it adds to a batch."""

    @property
    def gone(self) -> bool:
        """True if nobody waits for the result any more."""


Waiting = TypeVar("Waiting", bound=Place)


class Lines(Generic[Waiting]):
    """The two lines. Not thread-safe: for one event loop. Times are seconds of any clock that only goes forward."""

    def __init__(self, max_batch: int) -> None:
        """`max_batch`: weight of a batch; a heavier item goes alone."""
        self._max_batch = max_batch
        self._single, self._bulk = deque[Waiting](), deque[Waiting]()
        self._bulk_is_due = False
        self._last_single_s = self._last_slice_s = float("-inf")

    def __len__(self) -> int:
        """How many wait."""
        return len(self._single) + len(self._bulk)

    def add(self, waiting: Waiting, now_s: float, *, bulk: bool) -> None:
        """Puts somebody at the end of a line."""
        (self._bulk if bulk else self._single).append(waiting)
        if not bulk:
            self._last_single_s = now_s

    def drop_gone(self) -> None:
        """Gives up the places of those that have gone."""
        for line in (self._single, self._bulk):
            kept = [waiting for waiting in line if not waiting.gone]
            line.clear()
            line.extend(kept)

    def clear(self) -> list[Waiting]:
        """Empties both lines; returns who waited."""
        waited = [*self._single, *self._bulk]
        self._single.clear()
        self._bulk.clear()
        return waited

    def put_back(self, batch: Sequence[Waiting]) -> None:
        """Puts a batch back to the head of a line."""
        self._single.extendleft(reversed(batch))

    def take(self, now_s: float, *, held: bool = False) -> list[Waiting]:
        """Returns the next batch, empty if nobody waits, or only those that are held back.

        Args:
            now_s: the time.
            held: somebody who asks one question is being served elsewhere.
        """
        held = held and now_s < self._last_slice_s + HOLD_S
        for bulk in (True, False) if self._bulk_is_due else (False, True):
            if bulk and held:
                continue
            batch = _from(self._bulk, self.slice(now_s)) if bulk else _from(self._single, self._max_batch)
            if batch:
                self._bulk_is_due = not bulk
                self._last_slice_s = now_s if bulk else self._last_slice_s
                return batch
        return []

    def slice(self, now_s: float) -> int:
        """Returns the weight that a slice of the bulk may have."""
        doublings = min(32.0, (now_s - self._last_single_s) / DOUBLING_S)
        return min(self._max_batch, LEAST_SLICE << int(doublings))


def _from(line: deque[Waiting], limit: int) -> list[Waiting]:
    batch: list[Waiting] = []
    weight = 0
    while line and (not batch or weight + line[0].weight <= limit):
        waiting = line.popleft()
        if not waiting.gone:
            batch.append(waiting)
            weight += waiting.weight
    return batch
