"""Who goes next: two waiting lines before one worker, for single requests and for the items of bulk work.

The two take turns. When it is the single requests' turn all of them go, as far as they fit, and alone: nothing of the bulk
makes their batch longer. When it is the bulk's turn a slice of it goes, which takes at most about twice as long as one item
alone. So somebody who asks one question waits for one slice, however long the bulk's line is; and the bulk gets its slice
after every batch of single requests, however many there are.
"""

from __future__ import annotations

from collections import deque
from typing import Generic, Protocol, TypeVar

LEAST_SLICE = 4  # smaller ones cost more than they spare others: measured in docs/performance.md
SLOWER = 2.0  # a slice may take so many times as long as one item alone
_STEADY = 0.2  # weight of the latest measurement


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
    """The two lines. Not thread-safe: for one event loop."""

    def __init__(self, max_batch: int) -> None:
        """`max_batch`: weight of a batch; a heavier item goes alone."""
        self._max_batch = max_batch
        self._single, self._bulk = deque[Waiting](), deque[Waiting]()
        self._bulk_is_due = False
        self.pace = Pace(max_batch)

    def __len__(self) -> int:
        """How many wait."""
        return len(self._single) + len(self._bulk)

    def add(self, waiting: Waiting, *, bulk: bool) -> None:
        """Puts somebody at the end of a line."""
        (self._bulk if bulk else self._single).append(waiting)

    def drop_gone(self) -> None:
        """Gives up the places of those that have gone."""
        for line in (self._single, self._bulk):
            kept = [waiting for waiting in line if not waiting.gone]
            line.clear()
            line.extend(kept)

    def take(self) -> tuple[list[Waiting], bool]:
        """Returns the next batch, empty if nobody waits, and whether it is a slice of the bulk."""
        for bulk in (True, False) if self._bulk_is_due else (False, True):
            batch = _from(self._bulk, self.pace.slice) if bulk else _from(self._single, self._max_batch)
            if batch:
                self._bulk_is_due = not bulk
                return batch, bulk
        return [], False


def _from(line: deque[Waiting], limit: int) -> list[Waiting]:
    batch: list[Waiting] = []
    weight = 0
    while line and (not batch or weight + line[0].weight <= limit):
        waiting = line.popleft()
        if not waiting.gone:
            batch.append(waiting)
            weight += waiting.weight
    return batch


class Pace:
    """How large a slice of the bulk may be, learned from how long batches take.

    On a CPU the towers take as long for two items as twice for one, and slices stay small; on a GPU, or where a search reads
    a large index once for all its questions, a full batch hardly takes longer than one item, and slices grow.
    """

    def __init__(self, max_batch: int) -> None:
        """`max_batch`: no slice is larger."""
        self._least, self._most = min(LEAST_SLICE, max_batch), max_batch
        self._alone_s: float | None = None
        self.slice = self._least

    def learn(self, weight: int, took_s: float, *, bulk: bool) -> None:
        """Takes note of how long a batch took."""
        if weight == 1:
            last = took_s if self._alone_s is None else self._alone_s
            self._alone_s = last + _STEADY * (took_s - last)
        if self._alone_s is None or not bulk or weight < self.slice:
            return
        allowed = SLOWER * self._alone_s
        if took_s > allowed:
            self.slice = max(self._least, self.slice // 2)
        elif took_s * 2**0.5 <= allowed:  # twice as much takes up to twice as long: halfway between hope and fear
            self.slice = min(self._most, 2 * self.slice)
