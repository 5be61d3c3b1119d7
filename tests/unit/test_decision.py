from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.decision import HIGHEST, Thresholds
from app.errors import InvalidInput

RISING = Thresholds({"fused": [(100, 0.5), (10_000, 0.7)], "image": [(1, 0.9)]})


@pytest.mark.parametrize(("gallery", "expected"), [(100, 0.5), (10_000, 0.7), (1000, 0.6), (0, 0.5), (1, 0.5), (99, 0.5)])
def test_thresholds_are_interpolated_in_the_logarithm_of_the_gallery(gallery: int, expected: float) -> None:
    assert RISING.at("fused", gallery) == expected


@pytest.mark.parametrize(("gallery", "expected"), [(100_000, 0.8), (1_000_000, 0.9), (10**9, HIGHEST)])
def test_beyond_the_largest_gallery_thresholds_go_on_rising(gallery: int, expected: float) -> None:
    assert RISING.at("fused", gallery) == pytest.approx(expected, abs=1e-5)


def test_how_they_rise_is_seen_over_a_factor_of_e_at_least() -> None:
    close = Thresholds({"fused": [(100, 0.4), (9_999, 0.5), (10_000, 0.501)], "title": [(9_999, 0.5), (10_000, 0.501)]})
    assert close.at("fused", 100_000) == pytest.approx(0.501 + (0.501 - close.at("fused", 3_679)) * math.log(10), abs=1e-4)
    assert close.at("title", 100_000) == pytest.approx(0.501 + 0.001 * math.log(10), abs=1e-6)


def test_thresholds_that_fall_or_are_higher_already_stay() -> None:
    assert Thresholds({"fused": [(10, 0.6), (1000, 0.5)]}).at("fused", 10**6) == 0.5
    assert Thresholds({"fused": [(10, 0.6), (1000, 0.99)]}).at("fused", 10**6) == 0.99


@pytest.mark.parametrize("gallery", [0, 1, 10**6])
def test_a_single_point_counts_for_every_gallery(gallery: int) -> None:
    assert RISING.at("image", gallery) == 0.9


def test_a_modality_that_the_bundle_has_no_tower_for_is_refused() -> None:
    with pytest.raises(InvalidInput, match="title"):
        RISING.at("title", 10)


@given(
    st.dictionaries(st.integers(1, 10**6), st.floats(-1, 1), min_size=1, max_size=6),
    st.integers(0, 10**7),
    st.integers(0, 10**7),
)
def test_rising_points_never_give_falling_thresholds(points: dict[int, float], one: int, other: int) -> None:
    thresholds = Thresholds({"fused": list(zip(sorted(points), sorted(points.values()), strict=True))})
    low, high = sorted((one, other))
    assert thresholds.at("fused", low) <= thresholds.at("fused", high) + 1e-6


@pytest.mark.parametrize(
    ("points", "message"),
    [
        ({"sound": [(1, 0.5)]}, "unknown modality"),
        ({"fused": []}, "strictly rising"),
        ({"fused": [(10, 0.5), (10, 0.6)]}, "strictly rising"),
        ({"fused": [(10, 0.5), (5, 0.6)]}, "strictly rising"),
        ({"fused": [(0, 0.5)]}, "at least 1"),
        ({"fused": [(1, 1.01)]}, "cosines"),
        ({"fused": [(1, -1.01)]}, "cosines"),
        ({"fused": [(1, math.nan)]}, "cosines"),
    ],
)
def test_points_that_make_no_sense_are_refused(points: dict[str, list[tuple[int, float]]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Thresholds(points)
