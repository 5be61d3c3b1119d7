from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from app.core.metrics import BLOCK_ROWS, Curve, threshold_curve
from app.core.product import Floats

# Unit vectors whose coordinates are multiples of 1/2: every inner product is exact in float32, so ties are real ties.
HALVES = np.array(
    [
        [1, 0, 0, 0],
        [0, 1, 0, 0],
        [0, 0, 1, 0],
        [-1, 0, 0, 0],
        [0.5, 0.5, 0.5, 0.5],
        [0.5, 0.5, 0.5, -0.5],
        [0.5, -0.5, 0.5, 0.5],
    ],
    np.float32,
)
GRID = np.array([-1, -0.5, 0, 0.25, 0.5, 0.75, 1])


def naive(vectors: Floats, groups: NDArray[np.int64], threshold: float) -> tuple[float, float, float]:
    f1, precision, recall = [], [], []
    for i in range(len(vectors)):
        same = {j for j in range(len(vectors)) if groups[j] == groups[i]}
        found = {j for j in range(len(vectors)) if j == i or float(vectors[i] @ vectors[j]) >= threshold}
        right = len(same & found)
        f1.append(2 * right / (len(same) + len(found)))
        precision.append(right / len(found))
        recall.append(right / len(same))
    return float(np.mean(f1)), float(np.mean(precision)), float(np.mean(recall))


@given(st.lists(st.tuples(st.integers(0, len(HALVES) - 1), st.integers(0, 4)), min_size=1, max_size=25))
def test_the_curve_is_what_counting_pairs_gives(rows: list[tuple[int, int]]) -> None:
    vectors, groups = HALVES[[v for v, _ in rows]], np.array([g for _, g in rows])
    curve = threshold_curve(vectors, groups, GRID)
    expected = np.array([naive(vectors, groups, threshold) for threshold in GRID]).T
    np.testing.assert_allclose([curve.f1, curve.precision, curve.recall], expected, atol=1e-12)


def test_the_curve_of_three_listings_can_be_computed_by_hand() -> None:
    vectors = HALVES[[0, 4, 1]]  # cosines: 0-1 and 1-2 are 1/2, 0-2 is 0
    curve = threshold_curve(vectors, np.array([0, 0, 1]), np.array([0.5, 0.51]))
    np.testing.assert_allclose(curve.precision, [(1 + 2 / 3 + 1 / 2) / 3, 1])
    np.testing.assert_allclose(curve.recall, [1, (0.5 + 0.5 + 1) / 3])
    np.testing.assert_allclose(curve.f1, [(1 + 4 / 5 + 2 / 3) / 3, (2 / 3 + 2 / 3 + 1) / 3])


def test_a_cosine_equal_to_the_threshold_counts() -> None:
    curve = threshold_curve(HALVES[[0, 4]], np.array([0, 0]), np.array([0.5, np.nextafter(0.5, 1)]))
    assert curve.recall.tolist() == [1, 0.5]


def test_a_listing_always_finds_itself() -> None:
    rows = np.random.default_rng(0).normal(size=(20, 5))
    vectors = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    assert threshold_curve(vectors, np.arange(20), np.array([1.0])).f1.tolist() == [1]


def test_blocks_do_not_change_the_result() -> None:
    rows = BLOCK_ROWS + 10
    vectors = HALVES[np.arange(rows) % 3]  # three groups, all equal within and orthogonal between
    curve = threshold_curve(vectors, np.arange(rows) % 3, np.array([0.0, 0.5]))
    assert curve.f1[1] == pytest.approx(1)
    assert curve.precision[0] == pytest.approx(sum((np.arange(rows) % 3 == g).sum() ** 2 for g in range(3)) / rows**2)


@given(
    st.lists(st.tuples(st.integers(0, len(HALVES) - 1), st.integers(0, 4)), min_size=1, max_size=12),
    st.lists(st.integers(0, len(HALVES) - 1), max_size=12),
)
def test_strangers_in_the_gallery_are_found_and_do_not_ask(rows: list[tuple[int, int]], strangers: list[int]) -> None:
    asking, groups = [v for v, _ in rows], [g for _, g in rows]
    vectors = HALVES[asking + strangers]
    curve = threshold_curve(vectors, np.array(groups + [-1] * len(strangers)), GRID, len(rows))
    whole = np.concatenate([groups, np.arange(len(strangers)) + 10]).astype(np.int64)  # a group each
    scores = vectors @ vectors.T
    for n, threshold in enumerate(GRID):
        found = (scores >= threshold) | np.eye(len(vectors), dtype=bool)
        right = (found & (whole[:, None] == whole)).sum(1)
        f1 = 2 * right / ((whole[:, None] == whole).sum(1) + found.sum(1))
        assert curve.f1[n] == pytest.approx(f1[: len(rows)].mean())


def test_the_best_of_equal_thresholds_is_the_middle_one() -> None:
    f1 = np.array([0.1, 0.7, 0.9, 0.9, 0.9, 0.2])
    curve = Curve(np.linspace(0, 1, 6), f1, f1, f1, f1, f1)
    assert curve.best() == 3
    assert (curve.at(0.41), curve.at(-5), curve.at(5)) == (2, 0, 5)
