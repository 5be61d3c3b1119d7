"""Looking twice at the doubtful pairs of a whole table: their photos are laid over each other (`app.encoders.alignment`).

The same check, with the same meaning, as that of a single query (`app.verifying`).
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from app.core.answer import Reason
from app.core.grouping import Edges
from app.encoders.alignment import Keypoints, align, keypoints_of
from app.encoders.preprocess import InputLimits
from app.errors import AppError
from app.verifying import told_by

CHECKED = 10  # pairs of each listing, the likeliest first: some 5 ms each, and 37 ms for each photo
KEPT = 2000  # photos whose keypoints are remembered, 92 MB
CONFIRMED = 0.97  # the precision that `same_picture` was fitted to, see docs/experiments.md
REFUSED = 0.0

Rows = NDArray[np.int64]
Doubles = NDArray[np.float64]
Flags = NDArray[np.bool_]
Progress = Callable[[str, int | None], AbstractContextManager[Callable[[int], None]]]


def silent(what: str, total: int | None) -> AbstractContextManager[Callable[[int], None]]:
    """Shows no progress."""
    del what, total
    return nullcontext(lambda _: None)


@dataclass(frozen=True, slots=True)
class Photos:
    """The photos of `n` listings.

    Attributes:
        there: `(n,)` bool, who has one.
        read: listing -> the bytes of its photo; called for those that have one. Raises AppError.
        limits: what is accepted.
    """

    there: Flags
    read: Callable[[int], bytes]
    limits: InputLimits = field(default_factory=InputLimits)


@dataclass(frozen=True, slots=True)
class Checked:
    """What the check has changed.

    Attributes:
        probability: `(e,)` of all pairs: at least `CONFIRMED` where the photos lie over each other, `REFUSED` where one is
            the other in other colours, and what it was for the rest.
        reasons: what was found, by pair `(left, right)`; pairs that it says nothing about are left out.
    """

    probability: Doubles
    reasons: Mapping[tuple[int, int], Reason]


def check(edges: Edges, closeness: Doubles, doubtful: Flags, photos: Photos, progress: Progress = silent) -> Checked:
    """Lays the photos of doubtful pairs over each other.

    Each listing has at most `CHECKED` pairs checked that it comes closest in; others may name it as well. A photo is read
    once, unless thousands hang together by doubtful pairs. One that cannot be read (any more) is left out.

    Args:
        edges: judged pairs.
        closeness: `(e,)`, larger is closer.
        doubtful: `(e,)` which of the pairs may be checked.
        photos: of the listings.
        progress: called with what is done and how many pairs there are; gives what is called with the number just done.
    """
    chosen = _chosen(edges, closeness, doubtful & photos.there[edges.left] & photos.there[edges.right])
    probability = edges.probability.copy()
    reasons: dict[tuple[int, int], Reason] = {}
    if not len(chosen):
        return Checked(probability, reasons)

    @lru_cache(KEPT)
    def keypoints(row: int) -> Keypoints | None:
        try:
            return keypoints_of(photos.read(row), photos.limits)
        except AppError:
            return None

    with progress("Laying photos over each other", len(chosen)) as tick:
        for pair in chosen[_walk(edges.left[chosen], edges.right[chosen])].tolist():
            left, right = int(edges.left[pair]), int(edges.right[pair])
            one, other = keypoints(left), keypoints(right)
            told = None if one is None or other is None else told_by(align(one, other))
            if told is not None:
                reasons[left, right], decision = told
                same = decision == "match"
                probability[pair] = max(probability[pair], CONFIRMED) if same else REFUSED
            tick(1)
    return Checked(probability, reasons)


def _chosen(edges: Edges, closeness: Doubles, allowed: Flags) -> Rows:
    """Returns the allowed pairs that are among the closest `CHECKED` of one of their sides, rising."""
    pairs = np.flatnonzero(allowed)
    sides = np.concatenate([edges.left[pairs], edges.right[pairs]])
    both = np.concatenate([pairs, pairs])
    order = np.lexsort((both, -closeness[both], sides))
    sides, both = sides[order], both[order]
    place = np.arange(len(sides)) - np.searchsorted(sides, sides)
    return np.unique(both[place < CHECKED])


def _walk(left: Rows, right: Rows) -> Rows:
    """Returns an order of pairs in which those that share listings stand together: by breadth, from listing to listing."""
    near: dict[int, list[int]] = defaultdict(list)
    for a, b in zip(left.tolist(), right.tolist(), strict=True):
        near[a].append(b)
        near[b].append(a)
    places: dict[int, int] = {}
    for start in sorted(near):
        queue = deque([start])
        while queue:
            row = queue.popleft()
            if row not in places:
                places[row] = len(places)
                queue.extend(other for other in near[row] if other not in places)
    ends = np.array([[places[a], places[b]] for a, b in zip(left.tolist(), right.tolist(), strict=True)], np.int64)
    return np.lexsort((ends.min(axis=1), ends.max(axis=1)))
