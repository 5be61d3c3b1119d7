"""How good are candidate lists? Metrics of decisions, of rankings and of pairs, without an n x n matrix.

A query's list holds its best candidates only. Pairs outside of all lists count as not predicted, and in pooled metrics as
one tie below every listed pair. So numbers at a threshold are exact where no list is cut off above it, and the others
where what matters stands in the lists: the caller decides how long they are.

Equal scores have no order: a threshold takes all of them or none, and ranking metrics are the mean over every order they
could stand in (McSherry and Najork, "Computing Information Retrieval Performance Measures Efficiently in the Presence of
Tied Scores", ECIR 2008).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from app.core.metrics import Curve, reaching, sums_of

Doubles = NDArray[np.float64]
Counts = NDArray[np.int64]
Flags = NDArray[np.bool_]

BLOCK_QUERIES = 2048
CUT = 20


@dataclass(frozen=True, slots=True)
class Lists:
    """The candidates of `q` queries, best first, the query itself left out; list `n` is `starts[n]:starts[n + 1]`.

    Attributes:
        starts: `(q + 1,)` int64.
        others: `(pairs,)` int64 rows of the gallery.
        scores: `(pairs,)` float64, falling within a list.
        same: `(pairs,)` bool, whether the candidate is of the query's group.
        kinds: `(pairs,)` uint8, what the two sides share; a rule may ask more of a pair that shares less.
        true: `(q,)` int64, other members of the query's group in the gallery, listed or not.
        gallery: rows of the gallery, the query itself included.
    """

    starts: Counts
    others: Counts
    scores: Doubles
    same: Flags
    kinds: NDArray[np.uint8]
    true: Counts
    gallery: int

    def __len__(self) -> int:
        """Queries."""
        return len(self.true)

    def rows(self) -> Counts:
        """`(pairs,)`, the query of each pair."""
        return np.repeat(np.arange(len(self)), np.diff(self.starts))

    def blocks(self) -> Iterator[Lists]:
        """Yields the lists of a few thousand queries at a time, as views."""
        for first in range(0, len(self), BLOCK_QUERIES):
            starts = self.starts[first : first + BLOCK_QUERIES + 1]
            part = slice(int(starts[0]), int(starts[-1]))
            yield self._of(starts - starts[0], part, self.true[first : first + BLOCK_QUERIES], self.gallery)

    def within(self, queries: Counts, allowed: Flags) -> Lists:
        """Returns the lists of some queries in a smaller gallery that holds all members of their groups.

        Args:
            queries: `(m,)` numbers of the queries.
            allowed: `(gallery,)`, which rows are in the smaller gallery.
        """
        lengths = np.diff(self.starts)[queries]
        rows = np.repeat(np.arange(len(queries)), lengths)
        pairs = np.arange(len(rows)) + np.repeat(self.starts[queries] - (np.cumsum(lengths) - lengths), lengths)
        kept = allowed[self.others[pairs]]
        pairs, rows = pairs[kept], rows[kept]
        starts = np.searchsorted(rows, np.arange(len(queries) + 1))
        return self._of(starts, pairs, self.true[queries], int(allowed.sum()))

    def _of(self, starts: Counts, pairs: Counts | slice, true: Counts, gallery: int) -> Lists:
        others, scores, same, kinds = self.others[pairs], self.scores[pairs], self.same[pairs], self.kinds[pairs]
        return Lists(starts, others, scores, same, kinds, true, gallery)


@dataclass(frozen=True, slots=True)
class Decided:
    """What one rule decides.

    Attributes:
        f1, precision, recall: means over queries, the query itself included (the competition's metric).
        unmatchable: queries without another member in the gallery.
        unmatchable_share: share of those that get at least one false match; NaN if there are none.
        unmatchable_mean: false matches of those, mean number; NaN if there are none.
    """

    f1: float
    precision: float
    recall: float
    unmatchable: int
    unmatchable_share: float
    unmatchable_mean: float


@dataclass(frozen=True, slots=True)
class Ranked:
    """Ranking metrics: means over the queries that have another member in the gallery, NaN if none has.

    Attributes:
        recall_at_1: the first candidate is a member.
        recall_at_20: share of the other members among the first 20.
        map_at_20: average precision cut at 20, over `min(members, 20)`.
        map_at_r: precision at each member among the first R, over R, the number of members (Musgrave et al., "A Metric
            Learning Reality Check", arXiv 2003.08505).
        recall_at_20_self, map_at_20_self: the same with the query itself as a member and as the first candidate, which
            flatters: some projects report it that way.
    """

    recall_at_1: float
    recall_at_20: float
    map_at_20: float
    map_at_r: float
    recall_at_20_self: float
    map_at_20_self: float


def curve(lists: Lists, thresholds: Doubles) -> Curve:
    """Scores thresholds, `(t,)` float64 and rising, by the competition's metric; see `app.core.metrics.Curve`."""
    sums = np.zeros((5, len(thresholds)))
    slots = len(thresholds) + 1
    for part in lists.blocks():
        flat = part.rows() * slots + np.searchsorted(thresholds, part.scores, side="right")
        found, right = (
            1 + reaching(np.bincount(cells, minlength=len(part) * slots).reshape(-1, slots))
            for cells in (flat, flat[part.same])
        )
        sums += sums_of(found, right, 1 + part.true)
    paired = max(1, int((lists.true > 0).sum()))
    return Curve(thresholds, *(sums[:3] / max(1, len(lists))), *(sums[3:] / paired))


def reached(lists: Lists, bounds: Doubles) -> Flags:
    """Returns which pairs a rule takes, `(pairs,)`; `bounds` are its thresholds by what the two sides share."""
    return lists.scores >= bounds[lists.kinds]


def decided(lists: Lists, taken: Flags) -> Decided:
    """Scores any rule by the pairs that it takes, `(pairs,)`."""
    rows = lists.rows()
    found = np.bincount(rows[taken], minlength=len(lists))
    right = np.bincount(rows[taken & lists.same], minlength=len(lists))
    f1, precision, recall = sums_of(1 + found[:, None], 1 + right[:, None], 1 + lists.true)[:3, 0] / max(1, len(lists))
    alone = found[lists.true == 0]
    return Decided(float(f1), float(precision), float(recall), len(alone), _mean(alone > 0), _mean(alone))


def f1_of_matches(rows: Counts, others: Counts, labels: Counts, asked: Flags | None = None) -> float:
    """Scores matches by the competition's metric; each listing matches itself, too.

    Args:
        rows: `(pairs,)` who asked.
        others: `(pairs,)` what it was matched with, never itself.
        labels: `(n,)` true groups, -1 for none: such a listing has no match but itself.
        asked: `(n,)`, whose F1 is meant; None for all.
    """
    found = 1 + np.bincount(rows, minlength=len(labels))
    known = labels[rows] >= 0
    right = 1 + np.bincount(rows[known & (labels[rows] == labels[others])], minlength=len(labels))
    sizes = np.bincount(labels[labels >= 0], minlength=1)
    true = np.where(labels >= 0, sizes[labels], 1)
    f1 = 2 * right / (found + true)
    return float((f1 if asked is None else f1[asked]).mean())


def ranked(lists: Lists) -> Ranked:
    """Computes the ranking metrics."""
    sums = np.zeros(6)
    for part in lists.blocks():
        sums += _ranking_sums(part)
    asked = int((lists.true > 0).sum())
    return Ranked(*(sums / asked if asked else np.full(6, np.nan)).tolist())


def _ranking_sums(part: Lists) -> Doubles:
    asked = part.true > 0
    rows = part.rows()
    place = np.arange(len(rows)) - part.starts[rows]  # from 0
    chance, hits = _expected(part, rows)
    true = part.true[rows]

    def total(values: Doubles, first: int | Counts, over: Counts | int) -> float:
        per_query = np.bincount(rows, np.where(place < first, values, 0.0), minlength=len(part))
        return float((per_query / over)[asked].sum())

    members = np.maximum(part.true, 1)
    precision = chance * hits / (place + 1)
    with_self = chance * (hits + 1) / (place + 2)
    cut, cut_self = np.minimum(members, CUT), np.minimum(1 + members, CUT)
    return np.array(
        [
            total(chance, 1, 1),
            total(chance, CUT, members),
            total(precision, CUT, cut),
            total(precision, true, members),
            total(chance, CUT - 1, 1 + members) + float((1 / (1 + members))[asked].sum()),
            total(with_self, CUT - 1, cut_self) + float((1 / cut_self)[asked].sum()),
        ]
    )


def _expected(part: Lists, rows: Counts) -> tuple[Doubles, Doubles]:
    """What each place of a list holds, over all orders of equal scores.

    Returns:
        `(pairs,)` the chance that a member stands there, and how many members stand there or before it if one does.
    """
    if not len(rows):
        return np.zeros(0), np.zeros(0)
    opens = np.ones(len(rows), np.bool_)
    opens[1:] = (rows[1:] != rows[:-1]) | (part.scores[1:] != part.scores[:-1])
    first = np.flatnonzero(opens)
    tie = np.cumsum(opens) - 1
    length = np.diff(np.append(first, len(rows)))[tie]
    members = np.add.reduceat(part.same.astype(np.int64), first)[tie]
    running = np.concatenate([[0], np.cumsum(part.same)])
    before = running[first][tie] - running[part.starts[rows]]
    nth = np.arange(len(rows)) - first[tie]
    return members / length, before + 1 + nth * (members - 1) / np.maximum(length - 1, 1)


def average_precision(lists: Lists) -> float:
    """Returns the area under the precision-recall curve of all pairs (query, other row), as a step function."""
    right, found = _pooled(lists)
    if not len(right) or not right[-1]:
        return float("nan")
    return float((np.diff(right, prepend=0) * right / found).sum() / right[-1])


def recall_at_precision(lists: Lists, precision: float) -> float:
    """Returns the largest share of all true pairs that a single threshold finds at that precision or better, else 0."""
    right, found = _pooled(lists)
    if not len(right) or not right[-1]:
        return float("nan")
    return float((right / right[-1])[right / found >= precision].max(initial=0.0))


def _pooled(lists: Lists) -> tuple[Counts, Counts]:
    """Pools the pairs of all queries.

    Returns:
        True pairs, and all pairs, at or above each distinct score, best first; at the end all that are not listed.
    """
    order = np.argsort(-lists.scores, kind="stable")
    last = np.flatnonzero(np.append(np.diff(lists.scores[order]) != 0, True)[: len(order)])
    right, found = np.cumsum(lists.same[order], dtype=np.int64)[last], (last + 1).astype(np.int64)
    everything = len(lists) * (lists.gallery - 1)
    if everything > len(order):
        right, found = np.append(right, lists.true.sum()), np.append(found, everything)
    return right, found


def roc_auc(same: Doubles, different: Doubles) -> float:
    """Returns the chance that a true pair scores above a false one, equal scores counted half; NaN without both."""
    if not len(same) or not len(different):
        return float("nan")
    ordered = np.sort(different)
    below = np.searchsorted(ordered, same, side="left") + np.searchsorted(ordered, same, side="right")
    return float(below.sum() / 2 / len(same) / len(different))


def _mean(values: NDArray[np.bool_] | Counts) -> float:
    return float(values.mean()) if len(values) else float("nan")
