"""Rows of the search index, and what a search finds among them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from app.core.product import Floats

Precision = Literal["float32", "float16"]  # of stored rows; halves move scores by less than 0.0005
Search = Literal["auto", "flat", "approximate"]
CODES_FROM = 30_000  # rows of one kind, from which a search by codes is faster; see docs/performance.md
LISTS_FROM = 50_000  # rows of one kind, from which lists save so much time that one may give exactness for it
SLACK = 2e-5  # float32 rounding of question vectors scaled by up to 1/sqrt(w); the exact scores decide afterwards


@dataclass(frozen=True, slots=True)
class RowSet:
    """Rows of the index: `keys` (n,) int64 product keys, `flags` (n,) uint8, `vectors` (n, dim) float32.

    What an index exports has the vectors in the precision that it stores, float32 or float16.
    """

    keys: NDArray[np.int64]
    flags: NDArray[np.uint8]
    vectors: Floats


@dataclass(frozen=True, slots=True)
class IndexOptions:
    """How a catalog's rows are stored and searched.

    Attributes:
        precision: of the rows as they are stored.
        search: `flat` reads all rows, `auto` reads their 8-bit codes first where that is faster; both are exact.
            `approximate` reads the rows in the nearest lists.
        codes_from: rows of one kind from which codes are faster.
        lists_from: rows of one kind from which an approximate search is made of lists; fewer are searched exactly.
    """

    precision: Precision = "float32"
    search: Search = "auto"
    codes_from: int = CODES_FROM
    lists_from: int = LISTS_FROM

    @property
    def coded(self) -> bool:
        """Whether rows may have 8-bit codes; those in float16 have none, which would take half as much again."""
        return self.search == "auto" and self.precision == "float32"


@dataclass(frozen=True, slots=True)
class Found:
    """What a question found.

    Attributes:
        slots: `(n,)` int64, sorted.
        beyond: no other row that may answer scores more with the question, rounding included; -inf if there is none.
            After an approximate search an estimate.
    """

    slots: NDArray[np.int64]
    beyond: float


@dataclass(frozen=True, slots=True)
class Hits:
    """What a question found among some of the rows.

    Attributes:
        slots: `(n,)` int64, in any order, none twice.
        scores: `(n,)` float32 inner products, at most SLACK off.
        beyond: as in `Found`.
    """

    slots: NDArray[np.int64]
    scores: Floats
    beyond: float = -np.inf


def merge(parts: Sequence[Hits], bound: float, k: int) -> Hits:
    """Joins what was found among different rows: the `k` nearest of all, and whatever may reach the bound.

    Args:
        parts: each holds the `k` nearest of its rows, and those that may reach the bound.
        bound: smallest inner product that counts.
        k: how many are wanted below it, too.
    """
    slots = np.concatenate([np.zeros(0, np.int64), *(part.slots for part in parts)])
    scores = np.concatenate([np.zeros(0, np.float32), *(part.scores for part in parts)])
    beyond = max((part.beyond for part in parts), default=-np.inf)
    floor = bound - SLACK
    if k:
        floor = min(floor, float(np.partition(scores, -k)[-k])) if len(scores) > k else -np.inf
    kept = scores >= floor
    if not kept.all():
        beyond = max(beyond, float(scores[~kept].max()) + SLACK)
    return Hits(slots[kept], scores[kept], beyond)
