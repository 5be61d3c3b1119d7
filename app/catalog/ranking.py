"""From questions to ranked products: candidates from the index, exact scores, best photo per product."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from app.catalog.faiss_index import FlatIndex
from app.core.fusion import MODALITY_OF, Fusion
from app.core.product import Query

BLOCK_ROWS = 65_536
ROWS_EACH = 2  # of the index are searched for each candidate wanted: several photos of one product are one candidate

Keys = NDArray[np.int64]
Doubles = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Scope:
    """Which products may answer a query: `allowed` keys (None: all), less the `excluded` key."""

    allowed: Keys | None = None
    excluded: int | None = None


@dataclass(frozen=True, slots=True)
class Ranked:
    """The best products of one query, best first; equal scores in the order they were first indexed.

    Attributes:
        keys: `(n,)` product keys: of all matches that are shown, and of the candidates that the query wants anyway.
        score, image, title: `(n,)` cosines; NaN where a side lacks the modality.
        slots: `(n,)` row of the index with the best photo of each.
        matching: `(n,)` bool, which of them reach their threshold.
        total: products at or above the threshold, shown or not.
    """

    keys: Keys
    score: Doubles
    image: Doubles
    title: Doubles
    slots: Keys
    matching: NDArray[np.bool_]
    total: int


def rank(index: FlatIndex, fusion: Fusion, queries: Sequence[Query], scopes: Sequence[Scope]) -> list[Ranked]:
    """Answers queries exactly. Queries with the same scope and threshold share one pass over the index."""
    questions = [fusion.questions(query.embedding, index.kinds()) for query in queries]
    slots: list[Keys] = [np.zeros(0, np.int64)] * len(queries)
    for allowed, members in _by_scope(scopes):
        asked = [(n, queries[n].bound(modality), one) for n in members for modality, rows in questions[n] for one in rows]
        if not asked:
            continue
        nearest = max(_rows_wanted(queries[n]) for n in members)
        vectors = np.stack([one for _, _, one in asked])
        found = index.candidates(vectors, [bound for _, bound, _ in asked], allowed, nearest)
        for (owner, _, _), answer in zip(asked, found, strict=True):
            slots[owner] = np.union1d(slots[owner], answer)
    return [_rank_one(index, fusion, q, s, scope) for q, s, scope in zip(queries, slots, scopes, strict=True)]


def _by_scope(scopes: Sequence[Scope]) -> list[tuple[Keys | None, list[int]]]:
    groups: dict[int, tuple[Keys | None, list[int]]] = {}
    for n, scope in enumerate(scopes):
        groups.setdefault(id(scope.allowed), (scope.allowed, []))[1].append(n)
    return list(groups.values())


def _bounds(query: Query, shared: NDArray[np.uint8]) -> Doubles:
    """Returns the threshold of each row, by what it shares with the query; none for nothing in common."""
    by_flag = np.full(4, np.inf)
    for flag, modality in MODALITY_OF.items():
        by_flag[flag] = query.bound(modality)
    return by_flag[shared]


def _rows_wanted(query: Query) -> int:
    """Returns how many rows hold the candidates that a query wants: a product has a row for each photo."""
    return (query.context + 1) * ROWS_EACH if query.context else 0


def _rank_one(index: FlatIndex, fusion: Fusion, query: Query, slots: Keys, scope: Scope) -> Ranked:
    fused, flags = fusion.fuse(query.embedding)
    kept: list[tuple[Keys, Keys, Doubles, NDArray[np.bool_]]] = []
    for start in range(0, max(1, len(slots)), BLOCK_ROWS):
        block = slots[start : start + BLOCK_ROWS]
        rows = index.rows(block)
        for one, flag in zip(fused, flags, strict=True):  # a product that asks may have several photos
            scores = fusion.score_rows(one, int(flag), rows.vectors, rows.flags)
            enough = scores.score >= _bounds(query, rows.flags & flag)
            wanted = (enough | (query.context > 0)) & np.isfinite(scores.score)
            wanted &= rows.keys != (-1 if scope.excluded is None else scope.excluded)
            table = np.stack([scores.score, scores.image, scores.title])[:, wanted]
            kept.append((rows.keys[wanted], block[wanted], table, enough[wanted]))
    keys, places, table, enough = (np.concatenate([part[n] for part in kept], axis=-1) for n in range(4))
    order = np.lexsort((keys, -table[0]))
    order = order[np.sort(np.unique(keys[order], return_index=True)[1])]  # the first row of a product is its best photo
    reached = np.flatnonzero(enough[order])
    shown = np.union1d(reached[: query.limit], np.arange(min(query.context, len(order))))
    best = order[shown]
    return Ranked(keys[best], table[0, best], table[1, best], table[2, best], places[best], enough[best], len(reached))
