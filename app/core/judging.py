"""From the pair model's raw opinion to a probability, and from a probability to a decision: all that is fitted, as data."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from app.core.pairs import FEATURES
from app.errors import InvalidInput

Probability = Annotated[float, Field(ge=0, le=1)]
Doubles = NDArray[np.float64]
Decision = Literal["match", "review", "no-match"]
Setting = Literal["context", "alone"]


class Platt(BaseModel):
    """Log-odds that are right as often as they say: `slope * raw + offset` (Platt, 1999).

    Attributes:
        slope: above 0, so that a higher opinion is a higher probability.
        offset: the log-odds of an opinion of 0.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    slope: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    offset: Annotated[float, Field(allow_inf_nan=False)]

    def __call__(self, raw: Doubles) -> Doubles:
        """Turns raw opinions `(m,)` into probabilities `(m,)`."""
        found: Doubles = 1.0 / (1.0 + np.exp(-np.clip(self.slope * raw + self.offset, -50.0, 50.0)))
        return found


class PairSpec(BaseModel):
    """The pair model of a bundle, as its manifest has it.

    Attributes:
        weights: LightGBM's text files in the bundle: trees for pairs in a neighbourhood (`context`), and for two products
            alone (`alone`).
        features: what it reads, in order; a version of the program that computes others refuses the bundle.
        calibration: from the raw opinion (log-odds) of either to probability.
        precision: (precision, smallest probability) of candidate pairs that reach it, both rising.
        match: from this probability on, a pair is a match.
        review: below it and from this one on, somebody should look.
        group: mean probability between two groups that are joined, see `app.core.grouping`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    weights: dict[Setting, str]
    features: tuple[str, ...]
    calibration: dict[Setting, Platt]
    precision: tuple[tuple[Probability, Probability], ...]
    match: Probability
    review: Probability
    group: Annotated[float, Field(gt=0, le=1)]

    @model_validator(mode="after")
    def _consistent(self) -> PairSpec:
        if self.features != FEATURES:
            raise ValueError("the pair model reads other evidence than this version collects: run calibrate again")
        if self.review > self.match:
            raise ValueError("the bound of review lies above that of match")
        if any(set(parts) != {"context", "alone"} for parts in (self.weights, self.calibration)):
            raise ValueError("trees and calibration are needed for pairs in context and for pairs alone")
        if not self.precision or any(b[0] <= a[0] or b[1] < a[1] for a, b in pairwise(self.precision)):
            raise ValueError("bounds must rise with the precision")
        return self

    def bound_for(self, precision: float) -> float:
        """Returns the smallest probability at which candidate pairs are right as often as wanted.

        Raises:
            InvalidInput: the model was never that precise when it was calibrated.
        """
        wanted, bounds = np.array(self.precision, np.float64).T
        if precision > wanted[-1]:
            raise InvalidInput(
                f"this model reaches a precision of {wanted[-1]:.3f} at most: ask for that, or calibrate with more listings."
            )
        return round(float(np.interp(precision, wanted, bounds)), 6)

    def decide(self, probability: float, bounds: Mapping[str, float] | None = None) -> Decision:
        """Returns what to do with a pair; `bounds` (`match`, `review`) override the model's own."""
        own = {"match": self.match, "review": self.review, **(bounds or {})}
        if probability >= own["match"]:
            return "match"
        return "review" if probability >= own["review"] else "no-match"
