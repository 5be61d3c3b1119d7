"""From raw opinions to probabilities and decisions; and how far probabilities are from the truth."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from app.core.judging import PairSpec
from app.core.metrics import calibration_error
from app.core.pairs import FEATURES
from app.errors import InvalidInput

PLATT = {"slope": 2.0, "offset": -1.0}


def made(**changes: Any) -> PairSpec:
    """The specification of a pair model, with changes."""
    values: dict[str, Any] = {
        "weights": {"context": "pair_model.txt", "alone": "alone.txt"}, "features": FEATURES,
        "calibration": {"context": PLATT, "alone": {"slope": 1.0, "offset": 0.5}},
        "precision": ((0.5, 0.2), (0.9, 0.4), (0.95, 0.8)),
        "match": 0.6, "review": 0.3, "group": 0.4,
    }  # fmt: skip
    return PairSpec(**{**values, **changes})


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"features": FEATURES[1:]}, "other evidence"),
    ({"features": FEATURES[::-1]}, "other evidence"),
    ({"match": 0.2}, "review lies above"),
    ({"weights": {"context": "pair_model.txt"}}, "for pairs in context and for pairs alone"),
    ({"calibration": {"context": PLATT}}, "for pairs in context and for pairs alone"),
    ({"calibration": {"context": PLATT, "alone": PLATT, "third": PLATT}}, "Input should be 'context' or 'alone'"),
    ({"calibration": {"context": PLATT, "alone": {"slope": 0.0, "offset": 0.0}}}, "greater than 0"),
    ({"calibration": {"context": PLATT, "alone": {"slope": math.inf, "offset": 0.0}}}, "finite number"),
    ({"calibration": {"context": PLATT, "alone": {"slope": 1.0, "offset": math.nan}}}, "finite number"),
    ({"calibration": {"context": PLATT, "alone": {"slope": 1.0}}}, "Field required"),
    ({"precision": ()}, "must rise"),
    ({"precision": ((0.9, 0.4), (0.8, 0.5))}, "must rise"),
    ({"precision": ((0.8, 0.4), (0.9, 0.3))}, "must rise"),
    ({"precision": ((-0.1, 0.4),)}, "greater than or equal to 0"),
    ({"match": 1.1}, "less than or equal to 1"),
    ({"review": -0.1}, "greater than or equal to 0"),
    ({"group": 0.0}, "greater than 0"),
    ({"group": 1.5}, "less than or equal to 1"),
    ({"other": 1}, "Extra inputs"),
]


@pytest.mark.parametrize(("changes", "says"), WRONG)
def test_what_does_not_fit_is_refused(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says):
        made(**changes)


def test_it_survives_the_manifest() -> None:
    assert PairSpec.model_validate_json(made().model_dump_json()) == made()


def test_equal_bounds_are_allowed() -> None:
    assert made(match=0.3).decide(0.3) == "match"


def test_opinions_are_log_odds_that_are_stretched_and_moved() -> None:
    raw = np.array([-1e9, -1.0, 0.0, 0.5, 2.0, 1e9])
    context, alone = made().calibration["context"](raw), made().calibration["alone"](raw)
    assert context == pytest.approx([0.0, *(1 / (1 + math.exp(-x)) for x in (-3, -1, 0, 3)), 1.0], abs=1e-12)
    assert alone == pytest.approx([0.0, *(1 / (1 + math.exp(-x)) for x in (-0.5, 0.5, 1, 2.5)), 1.0], abs=1e-12)
    assert made().calibration["alone"](np.zeros(0)).shape == (0,)


@given(st.lists(st.floats(-10, 10), min_size=2), st.sampled_from(["context", "alone"]))
def test_a_higher_opinion_is_never_a_lower_probability(raw: list[float], setting: Any) -> None:
    found = made().calibration[setting](np.sort(raw))
    assert (np.diff(found) >= 0).all()
    assert ((found >= 0) & (found <= 1)).all()


@pytest.mark.parametrize(("precision", "bound"), [(0.0, 0.2), (0.5, 0.2), (0.7, 0.3), (0.9, 0.4), (0.925, 0.6), (0.95, 0.8)])
def test_precisions_that_were_reached_have_a_bound(precision: float, bound: float) -> None:
    assert made().bound_for(precision) == pytest.approx(bound)


def test_a_precision_that_was_never_reached_is_refused() -> None:
    with pytest.raises(InvalidInput, match=r"reaches a precision of 0\.950 at most"):
        made().bound_for(0.951)


@pytest.mark.parametrize(
    ("probability", "bounds", "decision"),
    [
        (0.6, None, "match"),
        (0.5999, None, "review"),
        (0.3, None, "review"),
        (0.2999, None, "no-match"),
        (0.5999, {}, "review"),
        (0.5, {"match": 0.5}, "match"),
        (0.2, {"review": 0.2}, "review"),
        (0.61, {"match": 0.9, "review": 0.7}, "no-match"),
        (0.4, {"match": 0.4, "review": 0.8}, "match"),  # bounds that cross: a match needs no review
        (0.0, {"match": 0.0}, "match"),
    ],
)
def test_bounds_are_inclusive_and_can_be_overridden(
    probability: float, bounds: dict[str, float] | None, decision: str
) -> None:
    assert made().decide(probability, bounds) == decision


def slow_error(pairs: list[tuple[float, bool]], bins: int) -> float:
    found = 0.0
    for number in range(bins):
        last = number == bins - 1
        inside = [pair for pair in pairs if int(pair[0] * bins) == number or (last and pair[0] == 1)]
        if inside:
            told, true = (sum(pair[side] for pair in inside) / len(inside) for side in (0, 1))
            found += len(inside) / len(pairs) * abs(told - true)
    return found


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=40), st.integers(1, 20))
def test_the_calibration_error_equals_a_loop(pairs: list[tuple[float, bool]], bins: int) -> None:
    probability, same = np.array([pair[0] for pair in pairs]), np.array([pair[1] for pair in pairs])
    assert calibration_error(probability, same, bins) == pytest.approx(slow_error(pairs, bins), abs=1e-12)


def test_calibration_errors_by_hand() -> None:
    assert calibration_error(np.array([0.5, 0.5]), np.array([True, False])) == 0
    assert calibration_error(np.array([1.0, 0.0]), np.array([False, True])) == 1
    assert calibration_error(np.array([0.9, 0.9, 0.1, 0.1]), np.array([True, True, False, False])) == pytest.approx(0.1)
    assert math.isnan(calibration_error(np.zeros(0), np.zeros(0, np.bool_)))
