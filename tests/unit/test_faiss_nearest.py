"""FlatIndex.candidates with `nearest` against NumPy: the k best, all at or above the bound, and what may lie beyond."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from app.catalog.faiss_index import FREE, SLACK, FlatIndex, Found, RowSet
from app.core.product import Floats

DIM = 4
ROUNDING = 1e-6  # of float32 inner products of unit vectors


@dataclass(frozen=True)
class Case:
    """An index and its rows by slot; a removed row has the key FREE."""

    index: FlatIndex
    keys: NDArray[np.int64]
    vectors: Floats
    flags: NDArray[np.uint8]


def unit(rows: NDArray[np.float64]) -> Floats:
    scaled: Floats = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return scaled


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Rows of several products, some of them equal, some removed again, some slots filled once more."""
    random = np.random.default_rng(draw(st.integers(0, 10_000)))
    count, products = draw(st.integers(1, 40)), draw(st.integers(1, 20))
    pool = unit(random.normal(size=(draw(st.integers(1, 40)), DIM)))  # a small pool makes ties
    vectors = pool[random.integers(len(pool), size=count)]
    keys = random.integers(products, size=count)
    index = FlatIndex(DIM)
    flags = random.integers(1, 4, count).astype(np.uint8)
    index.add(RowSet(keys, flags, vectors))
    removed = draw(st.sets(st.integers(0, products - 1)))
    index.remove(sorted(removed))
    keys = np.where(np.isin(keys, sorted(removed)), FREE, keys)
    again = min(int((keys == FREE).sum()), draw(st.integers(0, 3)))
    slots = np.flatnonzero(keys == FREE)[:again]
    filled = unit(random.normal(size=(again, DIM))) if again else np.zeros((0, DIM), np.float32)
    index.add(RowSet(np.full(again, products + 1), np.full(again, 3, np.uint8), filled))
    keys[slots], flags[slots] = products + 1, 3
    vectors = vectors.copy()
    vectors[slots] = filled
    return Case(index, keys.astype(np.int64), vectors, flags)


def check(
    case: Case,
    question: Floats,
    bound: float,
    allowed: NDArray[np.int64] | None,
    k: int,
    found: Found,
    among: int | None = None,
) -> None:
    got = found.slots
    usable = case.keys != FREE
    if allowed is not None:
        usable &= np.isin(case.keys, allowed)
    if among is not None:
        usable &= case.flags == among
    slots = np.flatnonzero(usable)
    assert got.dtype == np.int64
    assert got.tolist() == sorted(set(got.tolist()))
    assert set(got.tolist()) <= set(slots.tolist())
    scores = case.vectors.astype(np.float64) @ question.astype(np.float64)
    wanted = min(k, len(slots))
    assert len(got) >= wanted
    last = np.sort(scores[slots])[::-1][wanted - 1] if wanted else np.inf
    needed = slots[(scores[slots] >= bound) | (scores[slots] > last + ROUNDING)]
    assert set(needed.tolist()) <= set(got.tolist())
    assert (scores[got] >= min(bound - 2 * SLACK, last - ROUNDING)).all()  # and nothing that nobody asked for
    rest = np.setdiff1d(slots, got)
    assert (scores[rest] <= found.beyond).all()
    assert (found.beyond == -np.inf) == (len(rest) == 0)


@given(case=cases(), data=st.data())
def test_the_nearest_and_all_at_the_bound_are_found(case: Case, data: st.DataObject) -> None:
    random = np.random.default_rng(data.draw(st.integers(0, 10_000)))
    questions = unit(random.normal(size=(data.draw(st.integers(1, 6)), DIM)))
    if data.draw(st.booleans()):
        questions[0] = case.vectors[0]
    known = np.unique(case.keys)
    allowed = data.draw(
        st.none() | st.lists(st.sampled_from(known.tolist()), unique=True).map(lambda x: np.array(x, np.int64))
    )
    k = data.draw(st.integers(0, 8) | st.sampled_from([len(case.keys), len(case.keys) + 5]))
    exact = (case.vectors.astype(np.float64) @ questions[0].astype(np.float64)).tolist()
    bounds = [data.draw(st.sampled_from([-1.0, 0.0, 1.0, *exact]) | st.floats(-1, 1)) for _ in questions]
    among = data.draw(st.none() | st.integers(1, 3))
    found = case.index.candidates(questions, bounds, allowed, k, None if among is None else {among})
    assert len(found) == len(questions)
    for question, bound, got in zip(questions, bounds, found, strict=True):
        check(case, question, bound, allowed, k, got, among)


@pytest.mark.parametrize("bound", [-1.0, -0.2, 0.0, 0.35, 0.9, 1.0])
@pytest.mark.parametrize("k", [0, 1, 10, 399, 400, 1000])
def test_many_rows_with_holes(bound: float, k: int) -> None:
    random = np.random.default_rng(5)
    vectors = unit(random.normal(size=(400, DIM)))
    keys = np.arange(400, dtype=np.int64) // 2
    index = FlatIndex(DIM)
    index.add(RowSet(keys, np.full(400, 3, np.uint8), vectors))
    index.remove(range(0, 200, 3))
    case = Case(index, np.where(keys % 3 == 0, FREE, keys), vectors, np.full(400, 3, np.uint8))
    questions = unit(random.normal(size=(20, DIM)))
    for allowed in (None, np.arange(50, 60, dtype=np.int64), np.zeros(0, np.int64)):
        for question, got in zip(questions, index.candidates(questions, [bound] * 20, allowed, k), strict=True):
            check(case, question, bound, allowed, k, got)


def test_a_free_slot_is_not_nearer_than_what_is_opposite() -> None:
    vectors = np.array([[1, 0, 0, 0], [-1, 0, 0, 0], [-1, 0, 0, 0]], np.float32)
    index = FlatIndex(DIM)
    index.add(RowSet(np.arange(3, dtype=np.int64), np.full(3, 3, np.uint8), vectors))
    index.remove([0])
    assert [one.slots.tolist() for one in index.candidates(vectors[:1], [0.5], nearest=2)] == [[1, 2]]


def test_equal_scores_at_the_bound_are_all_found_beyond_the_nearest() -> None:
    vectors = np.tile(np.array([[0.6, 0.8, 0, 0]], np.float32), (30, 1))
    index = FlatIndex(DIM)
    index.add(RowSet(np.arange(30, dtype=np.int64), np.full(30, 3, np.uint8), vectors))
    question = np.array([[1, 0, 0, 0]], np.float32)
    assert len(index.candidates(question, [0.6], nearest=3)[0].slots) == 30
    assert len(index.candidates(question, [0.7], nearest=3)[0].slots) == 3


def test_an_empty_index_has_no_nearest() -> None:
    index = FlatIndex(DIM)
    assert [one.slots.tolist() for one in index.candidates(np.ones((2, DIM), np.float32), [0.0, 0.0], nearest=5)] == [[], []]
    index.add(RowSet(np.zeros(1, np.int64), np.full(1, 3, np.uint8), np.ones((1, DIM), np.float32)))
    index.remove([0])
    assert [one.slots.tolist() for one in index.candidates(np.ones((1, DIM), np.float32), [0.0], nearest=5)] == [[]]
