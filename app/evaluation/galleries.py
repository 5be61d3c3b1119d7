"""What a larger gallery costs: the same queries among more and more distractors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from app.core.metrics import middle_of_best
from app.core.ranking import Lists, curve, decided, ranked, reached

SIZES = (300, 1000, 3000, 10_000, 30_000, 100_000, 300_000)

Rows = NDArray[np.int64]
Doubles = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class GalleryPoint:
    """The metrics at one size of the gallery, as `app.evaluation.evaluate.Evaluation` names them."""

    gallery: int
    f1_at_threshold: float
    f1_best: float
    threshold: float
    best_threshold: float
    recall_at_1: float


def f1_by_gallery(
    lists: Lists, labels: Rows, bounds: Callable[[int], Doubles], main: int, grid: Doubles, seed: int
) -> list[GalleryPoint]:
    """Measures every query in smaller galleries, made of its own group and random other rows.

    The groups are dealt into parts about as large as the smallest gallery. Each part is searched in galleries that hold the
    part itself and random rows of the rest; the means over all parts are returned. So each query counts once at each size,
    and the last point, which is the whole gallery, agrees with the headline.

    Args:
        lists: of the queries.
        labels: `(gallery,)` numbers of the queries' groups, -1 for rows of the gallery that are no queries. The query of
            list `n` is the n-th row with a group.
        bounds: gallery size -> thresholds by what a pair shares.
        main: which of these to report.
        grid: thresholds to choose the best from.
        seed: of the random choices.
    """
    sizes = [size for size in SIZES if size < len(labels)] + [len(labels)]
    parts = deal(labels, sizes[0], seed)
    queries = np.flatnonzero(labels >= 0)
    rank = np.random.default_rng(seed + 1).permutation(len(labels))
    points = []
    for size in sizes:
        rows = bounds(size)
        f1, first, best = 0.0, 0.0, np.zeros(len(grid))
        asked = int((lists.true > 0).sum())
        for part in range(int(parts.max()) + 1):
            small = lists.within(np.flatnonzero(parts[queries] == part), _gallery(parts == part, rank, size))
            f1 += decided(small, reached(small, rows)).f1 * len(small) / len(queries)
            best += curve(small, grid).f1 * len(small) / len(queries)
            members = int((small.true > 0).sum())
            first += ranked(small).recall_at_1 * members / asked if members else 0.0
        top = middle_of_best(best)
        recall = first if asked else float("nan")
        points.append(GalleryPoint(size, f1, float(best[top]), float(rows[main]), float(grid[top]), recall))
    return points


def deal(labels: Rows, size: int, seed: int) -> Rows:
    """Deals whole groups into parts of about `size` rows: `(gallery,)` part of each row, -1 for rows without a group."""
    counts = np.bincount(labels[labels >= 0])
    order = np.random.default_rng(seed).permutation(len(counts))
    part = np.empty(len(counts), np.int64)
    part[order] = (np.cumsum(counts[order]) - counts[order]) // size
    part = np.unique(part, return_inverse=True)[1]  # a group larger than a part leaves a number free
    return np.where(labels >= 0, part[labels], -1)


def _gallery(members: NDArray[np.bool_], rank: Rows, size: int) -> NDArray[np.bool_]:
    """Returns the members and the first other rows in random order, `size` in all: the smaller is part of the larger."""
    order = np.argsort(np.where(members, -1, rank), kind="stable")
    chosen = np.zeros(len(members), np.bool_)
    chosen[order[: max(size, int(members.sum()))]] = True
    return chosen
