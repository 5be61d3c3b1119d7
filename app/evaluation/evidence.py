"""Evidence about the candidate pairs of many listings at once: what pair models learn from, and what groups are made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from app.core.decision import Thresholds
from app.core.neighbourhood import Ground, Members
from app.core.pairs import CONTEXT, FEATURES, evidence
from app.core.product import Floats
from app.core.ranking import Lists
from app.evaluation.candidates import with_expansion
from app.evaluation.features import Features
from app.evaluation.neighbours import Search

NOBODY = -1
REACH = 0.35  # below the threshold: candidates that score less are hopeless, and left out

Rows = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Table:
    """Candidate pairs of listings.

    Attributes:
        rows, others: `(pairs,)` int64 listings: who asks, and the candidate, or `NOBODY` where that is a listing that has no
            number; sorted by `rows`, best candidates first.
        evidence: `(pairs, len(FEATURES))` float32.
        same: `(pairs,)` bool, whether both are of one group.
    """

    rows: Rows
    others: Rows
    evidence: Floats
    same: NDArray[np.bool_]


def candidate_pairs(
    features: Features,
    titles: Sequence[str | None],
    labels: Rows,
    thresholds: Thresholds,
    tick: Callable[[int], None] = lambda _: None,
    *,
    queries: int | None = None,
    expansion: bool = False,
) -> Table:
    """Finds the candidates of listings among all others, and collects the evidence about them.

    Args:
        features: of `n` listings.
        titles: their clean titles.
        labels: `(n,)` int64 groups, -1 for none.
        thresholds: of the bundle.
        tick: called with the number of listings just done.
        queries: so many listings ask, the first; None for all.
        expansion: also look for candidates with vectors that are blended with their neighbours, see `app.core.expansion`.
    """
    lists = Search(features, len(features) if queries is None else queries, CONTEXT, lambda _: None).lists(labels)
    bounds = thresholds.all_at(len(features))
    if expansion:
        lists = with_expansion(features, lists, labels, bounds)
    return collect(features, titles, lists, bounds, tick)


def judged_alone(
    features: Features,
    titles: Sequence[str | None],
    left: Rows,
    right: Rows,
    same: NDArray[np.bool_],
    bounds: Mapping[str, float],
) -> Table:
    """Collects the evidence about given pairs, each by itself.

    Args:
        features: of `n` listings.
        titles: their clean titles.
        left: `(pairs,)` one side of each pair.
        right: `(pairs,)` the other.
        same: `(pairs,)` whether they are the same product.
        bounds: the thresholds for two products alone, see `Ground`.
    """
    if features.fusion is None:
        raise ValueError("evidence needs a bundle")
    ground = Ground(features.fusion, bounds, 0)
    order = np.lexsort((right, left))
    rows = [evidence(_members(features, titles, int(left[n]), right[n : n + 1]), ground, 0) for n in order]
    found = np.concatenate(rows) if rows else np.zeros((0, len(FEATURES)), np.float32)
    return Table(left[order], right[order], found, same[order])


def joined(*tables: Table) -> Table:
    """Puts tables into one."""
    rows, others, values, same = (
        np.concatenate([getattr(table, part) for table in tables]) for part in ("rows", "others", "evidence", "same")
    )
    return Table(rows, others, values, same)


def some(table: Table, kept: NDArray[np.bool_]) -> Table:
    """Returns those pairs of a table that are kept, `(pairs,)`."""
    return Table(table.rows[kept], table.others[kept], table.evidence[kept], table.same[kept])


def moved_by(table: Table, offset: int) -> Table:
    """Returns a table whose listings are numbered from `offset` on."""
    others = np.where(table.others == NOBODY, NOBODY, table.others + offset)
    return Table(table.rows + offset, others, table.evidence, table.same)


def collect(
    features: Features,
    titles: Sequence[str | None],
    lists: Lists,
    bounds: Mapping[str, float],
    tick: Callable[[int], None] = lambda _: None,
    context: int = CONTEXT,
) -> Table:
    """Collects the evidence about the best candidates of every listing.

    Args:
        features: of `n` listings.
        titles: their clean titles.
        lists: the candidates of the first listings, best first.
        bounds: the thresholds for this gallery, see `Ground`.
        tick: called with the number of listings just done.
        context: candidates of each listing that are judged, and make its neighbourhood.
    """
    if features.fusion is None:
        raise ValueError("evidence needs a bundle")
    ground = Ground(features.fusion, bounds, len(features))
    lowest = ground.by_kind() - REACH
    parts: list[tuple[Rows, Rows, Floats, NDArray[np.bool_]]] = []
    for row in range(len(lists)):
        place = slice(int(lists.starts[row]), min(int(lists.starts[row]) + context, int(lists.starts[row + 1])))
        others = lists.others[place]
        found = evidence(_members(features, titles, row, others), ground, context)
        kept = found[:, FEATURES.index("raised")] >= lowest[lists.kinds[place]]
        parts.append((np.full(int(kept.sum()), row), others[kept], found[kept], lists.same[place][kept]))
        tick(1)
    if not parts:
        parts = [(np.zeros(0, np.int64),) * 2 + (np.zeros((0, len(FEATURES)), np.float32), np.zeros(0, np.bool_))]
    rows, others, values, same = (np.concatenate([part[n] for part in parts]) for n in range(4))
    return Table(rows, others, values, same)


def _members(features: Features, titles: Sequence[str | None], row: int, others: Rows) -> Members:
    all_rows = np.concatenate([[row], others])
    return Members(
        features.vectors[all_rows],
        features.flags[all_rows],
        [titles[n] for n in all_rows],
        features.hashes[all_rows],
        features.hashed[all_rows],
    )
