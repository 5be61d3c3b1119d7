"""From questions to ranked products: candidates from the index, exact scores, best photo per product."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from app.catalog.row_index import RowIndex
from app.catalog.rows import Found
from app.core.fusion import MODALITY_OF, Fusion
from app.core.product import Floats, Query

BLOCK_ROWS = 65_536
# Rows of the index that are searched for each candidate wanted: a product has one for each of its photos. More are searched
# only for queries whose candidates are not certain yet. The last is enough for products with 20 photos each.
ROWS_EACH = (2, 8, 32)
_FLAGS = {modality: flags for flags, modality in MODALITY_OF.items()}

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
        unseen: no other product scores more than this; -inf if no other has anything in common with the query.
    """

    keys: Keys
    score: Doubles
    image: Doubles
    title: Doubles
    slots: Keys
    matching: NDArray[np.bool_]
    total: int
    unseen: float


def rank(index: RowIndex, fusion: Fusion, queries: Sequence[Query], scopes: Sequence[Scope]) -> list[Ranked]:
    """Answers queries: matches always exactly, candidates as far as the deepest search reaches; see `Ranked.unseen`."""
    answers: dict[int, Ranked] = {}

    def look(which: Sequence[int], each: int, *, if_any: bool = False) -> list[int]:
        """Answers some queries; returns those whose candidates are not certain."""
        found = _find(index, fusion, [queries[n] for n in which], [scopes[n] for n in which], each, if_any=if_any)
        for n, parts in zip(which, found, strict=True):
            answers[n] = _rank_one(index, fusion, queries[n], parts, scopes[n])
        return [n for n in which if not _certain(queries[n], answers[n])]

    waiting = [n for n, query in enumerate(queries) if not query.if_any]
    waiting += look([n for n, query in enumerate(queries) if query.if_any], ROWS_EACH[0], if_any=True)
    for each in ROWS_EACH:
        waiting = look(waiting, each)
    return [answers[n] for n in range(len(queries))]


def _certain(query: Query, ranked: Ranked) -> bool:
    """True if no other product can be among the candidates that the query wants."""
    if query.if_any and not ranked.total:
        return True
    last = query.context - 1
    return last < 0 or ranked.unseen == -np.inf or (last < len(ranked.score) and bool(ranked.score[last] >= ranked.unseen))


def _find(
    index: RowIndex, fusion: Fusion, queries: Sequence[Query], scopes: Sequence[Scope], each: int, *, if_any: bool
) -> list[list[Found]]:
    """Returns what each query's questions find. Those with the same filter share one pass over the index.

    So many rows are found for `each` candidate that is wanted; with `if_any` only among rows of a kind that has matches.
    """
    kinds = index.kinds()
    asked = defaultdict[int, list[_Question]](list)
    for n, query in enumerate(queries):
        for modality, rows in fusion.questions(query.embedding, kinds):
            bound, about = query.bound(modality), _about(query, modality)
            asked[id(scopes[n].allowed)] += [_Question(n, one, bound, about) for one in rows]
    answers: list[list[Found]] = [[] for _ in queries]
    for questions in asked.values():
        vectors, bounds = np.stack([one.vector for one in questions]), [one.bound for one in questions]
        nearest = max(_rows_wanted(queries[one.query], each) for one in questions)
        allowed = scopes[questions[0].query].allowed
        found = index.candidates(vectors, bounds, allowed, nearest, [one.about for one in questions], if_any=if_any)
        for question, one in zip(questions, found, strict=True):
            answers[question.query].append(one)
    return answers


@dataclass(frozen=True, slots=True)
class _Question:
    """One of the questions of the query at a position: `(dim,)`, its smallest inner product, the flags of its rows."""

    query: int
    vector: Floats
    bound: float
    about: frozenset[int]


def _about(query: Query, modality: str) -> frozenset[int]:
    """Returns the flags of the rows that a question is about: those that share just that modality with the query."""
    asked, wanted = _FLAGS[query.embedding.modality], _FLAGS[modality]
    return frozenset(flags for flags in MODALITY_OF if flags & asked == wanted)


def _bounds(query: Query, shared: NDArray[np.uint8]) -> Doubles:
    """Returns the threshold of each row, by what it shares with the query; none for nothing in common."""
    by_flag = np.full(4, np.inf)
    for flag, modality in MODALITY_OF.items():
        by_flag[flag] = query.bound(modality)
    return by_flag[shared]


def _rows_wanted(query: Query, each: int) -> int:
    """Returns how many of the nearest rows are searched: one candidate more than is wanted may be the one that asks."""
    return (query.context + 1) * each if query.context else 0


def _rank_one(index: RowIndex, fusion: Fusion, query: Query, found: Sequence[Found], scope: Scope) -> Ranked:
    slots = np.unique(np.concatenate([np.zeros(0, np.int64), *(one.slots for one in found)]))
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
    left = table[0, np.delete(order, shown)][:1].tolist()
    unseen = min(1.0, max([-np.inf, *(one.beyond for one in found), *left]))  # no score is larger than 1
    return Ranked(
        keys[best], table[0, best], table[1, best], table[2, best], places[best], enough[best], len(reached), unseen
    )
