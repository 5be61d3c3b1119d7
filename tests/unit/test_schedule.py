"""Rates and margins over a run."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from app.training.config import TrainingConfig
from app.training.schedule import margin_at, rate_factor

runs = given(updates=st.integers(1, 500), share=st.floats(0, 1))


def test_a_rate_rises_in_a_line_and_falls_along_half_a_cosine() -> None:
    factors = [rate_factor(update, 100, 0.2) for update in range(100)]
    assert factors[:20] == pytest.approx([(n + 1) / 20 for n in range(20)])
    assert factors[20:] == pytest.approx([(1 + math.cos(math.pi * n / 80)) / 2 for n in range(80)])
    assert max(factors) == 1
    assert rate_factor(100, 100, 0.2) == pytest.approx(0)
    assert rate_factor(60, 100, 0.2) == pytest.approx(0.5)


def test_without_a_warm_up_the_peak_comes_first() -> None:
    assert rate_factor(0, 10, 0.0) == 1


@runs
def test_rates_stay_in_range_rise_and_then_fall(updates: int, share: float) -> None:
    factors = [rate_factor(update, updates, share) for update in range(updates)]
    assert all(0 < factor <= 1 for factor in factors)
    top = factors.index(max(factors))
    assert factors[: top + 1] == sorted(factors[: top + 1])
    assert factors[top:] == sorted(factors[top:], reverse=True)


def test_the_margin_rises_in_a_line_and_stays() -> None:
    config = TrainingConfig(margin_start=0.1, margin=0.5, margin_ramp=0.5)
    assert [margin_at(n, 100, config) for n in (0, 25, 50, 99)] == pytest.approx([0.1, 0.3, 0.5, 0.5])


@runs
def test_the_margin_never_falls_and_never_leaves_its_range(updates: int, share: float) -> None:
    config = TrainingConfig(margin_start=0.05, margin=0.6, margin_ramp=share)
    margins = [margin_at(update, updates, config) for update in range(updates + 1)]
    assert margins == sorted(margins)
    assert all(0.05 <= margin <= 0.6 + 1e-12 for margin in margins)
    assert margins[-1] == pytest.approx(0.6)
    assert margin_at(0, updates, TrainingConfig(margin_ramp=0)) == 0.5


@pytest.mark.parametrize(
    "wrong",
    [
        {"margin": 28.6}, {"margin": 0.2, "margin_start": 0.3},
        {"margin": 0.5, "margin_fall": 0.6}, {"epochs": 0}, {"batch_size": 1}, {"learning_rate": 0},
        {"warm_up": 1.1}, {"keep": 1}, {"scale": 0}, {"head": "softmax"}, {"precision": "int8"}, {"nonsense": 1},
        {"seed": -1}, {"clip": 0}, {"fusion": "sum"},
    ],
)  # fmt: skip
def test_a_configuration_outside_its_ranges_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        TrainingConfig.model_validate(wrong)
