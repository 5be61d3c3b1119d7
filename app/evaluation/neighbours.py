"""Candidate lists of many listings at once: exact search in blocks, then one exact score for every pair found.

Listings are searched by what the two sides share: photo and title with the fused vectors, photo or title alone with that
half. Each of these inner products *is* the score (`app.core.fusion`), so the k best of each, together with the k nearest
hashes, are the best of all: the score of a pair outside of a list is bounded by its last entries.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from app.catalog.faiss_index import nearest
from app.catalog.rows import SLACK
from app.core import phash
from app.core.product import Floats
from app.core.ranking import Lists
from app.evaluation.features import Features, halves

Rows = NDArray[np.int64]
Doubles = NDArray[np.float64]

BLOCK_ROWS = 2048
MAX_PAIRS = 40_000_000  # about 700 MB
MAX_MATES = 1000

_Found = tuple[Rows, Doubles, NDArray[np.uint8]]
_NOTHING: _Found = (np.zeros(0, np.int64), np.zeros(0), np.zeros(0, np.uint8))


class Neighbours:
    """Answers which listings may score best against others."""

    def __init__(self, features: Features) -> None:
        self.features = features
        self._of_kind = {int(kind): np.flatnonzero(features.flags == kind) for kind in np.unique(features.flags) if kind}
        self._halves: dict[tuple[int, int], Floats] = {}
        self._hashed = np.flatnonzero(features.hashed)
        self._signs = phash.signs(features.hashes[self._hashed])

    def find(self, rows: Rows, k: int) -> tuple[list[Rows], Doubles]:
        """Finds the k best of each question, without the listing that asks.

        Args:
            rows: `(m,)` the listings that ask.
            k: at least 1.

        Returns:
            For each the rows of its candidates, rising; and `(m,)` the largest score that a pair outside of them can have,
            -inf if there is none.
        """
        found: list[list[Rows]] = [[] for _ in rows]
        outside = np.full(len(rows), -np.inf)
        for kind in self._of_kind:
            asking = np.flatnonzero(self.features.flags[rows] == kind)
            for other, gallery in self._of_kind.items():
                if not len(asking) or not kind & other:
                    continue
                vectors = halves(self.features, rows[asking], kind & other)
                scores, places = nearest(vectors, self._half(other, kind & other), k + 1)
                for n, row in enumerate(asking):
                    found[row].append(gallery[places[n]])
                if k + 1 < len(gallery):
                    outside[asking] = np.maximum(outside[asking], scores[:, -1])
        self._add_hashes(rows, k, found, outside)
        joined = [np.unique(np.concatenate(parts)) if parts else np.zeros(0, np.int64) for parts in found]
        return [one[one != row] for one, row in zip(joined, rows, strict=True)], outside

    def _add_hashes(self, rows: Rows, k: int, found: list[list[Rows]], outside: Doubles) -> None:
        """Adds the listings whose hash is nearer than `phash.REACH`; `found` and `outside` change."""
        asking = np.flatnonzero(self.features.hashed[rows])
        if not len(asking):
            return
        dots, places = nearest(phash.signs(self.features.hashes[rows[asking]]), self._signs, k + 1)
        distance = ((phash.BITS - dots) / 2).round().astype(np.int64)
        for n, row in enumerate(asking):
            found[row].append(self._hashed[places[n, distance[n] < phash.REACH]])
        if k + 1 < len(self._hashed):
            last = phash.kernel(distance[:, -1])
            raised = np.maximum(outside[asking] + phash.WEIGHT * last, last)
            outside[asking] = np.where(last > 0, raised, outside[asking])

    def _half(self, kind: int, shared: int) -> Floats:
        key = (kind, shared)
        if key not in self._halves:
            self._halves[key] = halves(self.features, self._of_kind[kind], shared)
        return self._halves[key]


class Search:
    """The candidate lists of the first listings of a gallery, which can be made longer where they are too short."""

    def __init__(self, features: Features, queries: int, k: int, tick: Callable[[int], None]) -> None:
        """Searches.

        Args:
            features: the gallery; its first `queries` rows are the queries.
            queries: how many.
            k: candidates of each question.
            tick: called with the number of queries just done.
        """
        self._neighbours = Neighbours(features)
        self._found: list[_Found] = [_NOTHING] * queries
        self._k = np.full(queries, k)
        self.outside = np.full(queries, -np.inf)
        self._search(np.arange(queries), k, tick)

    def lengthen(self, threshold: float) -> bool:
        """Doubles the lists that may be cut off at or above a threshold.

        Returns:
            False if none is, or if memory does not allow it: then `complete(threshold)` is false.
        """
        short = np.flatnonzero(self.outside >= threshold - SLACK)
        if not len(short) or sum(len(one[0]) for one in self._found) + int(self._k[short].sum()) > MAX_PAIRS:
            return False
        for k in np.unique(self._k[short]):
            self._search(short[self._k[short] == k], 2 * int(k), lambda _: None)
        self._k[short] *= 2
        return True

    def complete(self, threshold: float) -> bool:
        """True if the lists hold every pair that reaches the threshold."""
        return not bool((self.outside >= threshold - SLACK).any())

    def exact_from(self) -> float:
        """The smallest threshold for which `complete` is true, at least 0."""
        return max(0.0, float(self.outside.max(initial=-np.inf)) + 2 * SLACK)

    def lists(self, labels: Rows) -> Lists:
        """Returns the lists of all queries.

        Args:
            labels: `(n,)` group of each row of the gallery, -1 for none: such a row is of no query's group.
        """
        n = len(self._found)
        lengths = [len(one[0]) for one in self._found]
        found = [_NOTHING, *self._found]  # even without queries there is something to join
        others, scores, kinds = (np.concatenate([one[part] for one in found]) for part in range(3))
        asking = np.repeat(labels[:n], lengths)
        same = (labels[others] == asking) & (asking >= 0)
        sizes = np.bincount(labels[labels >= 0], minlength=1)
        true = np.where(labels[:n] >= 0, sizes[labels[:n]] - 1, 0)
        starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        return Lists(starts, others, scores, same, kinds, true, len(labels))

    def _search(self, rows: Rows, k: int, tick: Callable[[int], None]) -> None:
        features = self._neighbours.features
        for start in range(0, len(rows), BLOCK_ROWS):
            part = rows[start : start + BLOCK_ROWS]
            found, self.outside[part] = self._neighbours.find(part, k)
            for row, others in zip(part, found, strict=True):
                scores, kinds = features.score(int(row), others)
                order = np.lexsort((others, -scores))
                self._found[row] = (others[order], scores[order], kinds[order])
            tick(len(part))


@dataclass(frozen=True, slots=True)
class TruePairs:
    """Pairs of the same group: `(pairs,)` who asks, the other one, their score, and what they share."""

    rows: Rows
    others: Rows
    scores: Doubles
    kinds: NDArray[np.uint8]


def sample_pairs(features: Features, labels: Rows, queries: int, different: int, seed: int) -> tuple[TruePairs, Doubles]:
    """Scores true pairs and random false ones, found by the search or not.

    Args:
        features: the gallery; its first `queries` rows are the queries.
        labels: as in `Search.lists`.
        queries: how many rows are queries; those without a group are left out.
        different: about how many false pairs; all of them if there are fewer.
        seed: of the random choice.

    Returns:
        The true pairs (each query with `MAX_MATES` random members if its group is larger), and the scores of the false ones.
    """
    rng = np.random.default_rng(seed)
    everyone = np.arange(len(labels))
    asking = np.flatnonzero(labels[:queries] >= 0)
    order = np.argsort(labels, kind="stable")
    bounds = np.searchsorted(labels[order], np.arange(labels.max(initial=-1) + 2))
    each = math.ceil(different / max(1, len(asking)))
    found: list[_Found] = []
    unlike: list[Doubles] = []
    for row in asking:
        mates = order[bounds[labels[row]] : bounds[labels[row] + 1]]
        mates = mates[mates != row]
        mates = rng.choice(mates, MAX_MATES, replace=False) if len(mates) > MAX_MATES else mates
        drawn = everyone if each >= len(everyone) else rng.integers(0, len(everyone), each)
        drawn = drawn[labels[drawn] != labels[row]]
        scores, kinds = features.score(int(row), np.concatenate([mates, drawn]))
        found.append((mates, scores[: len(mates)], kinds[: len(mates)]))
        unlike.append(scores[len(mates) :])
    empty = (np.zeros(0, np.int64), np.zeros(0), np.zeros(0, np.uint8))
    others, scores, kinds = (np.concatenate([one[part] for one in [empty, *found]]) for part in range(3))
    rows = np.repeat(asking, [len(one[0]) for one in found])
    return TruePairs(rows, others, scores, kinds), np.concatenate([np.zeros(0), *unlike])
