"""The pair model of a bundle: gradient-boosted trees over the evidence about a pair."""

from __future__ import annotations

from pathlib import Path

import lightgbm
import numpy as np
from numpy.typing import NDArray

from app.core.judging import PairSpec
from app.core.pairs import FEATURES
from app.core.product import Floats
from app.errors import DimensionMismatch

Doubles = NDArray[np.float64]


class PairModel:
    """Evidence -> probability that both are the same product. Methods may be called from several threads."""

    def __init__(self, spec: PairSpec, text: str) -> None:
        """Takes the trees as text.

        Raises:
            DimensionMismatch: they are no trees, or read other features than the specification says.
        """
        self.spec = spec
        try:
            self._trees = lightgbm.Booster(model_str=text)
        except lightgbm.basic.LightGBMError as error:
            raise DimensionMismatch(f"{spec.weights} is no LightGBM model: run calibrate again.") from error
        if tuple(self._trees.feature_name()) != spec.features:
            raise DimensionMismatch(f"{spec.weights} reads other evidence than the manifest says: run calibrate again.")

    @classmethod
    def load(cls, spec: PairSpec, folder: Path) -> PairModel:
        """Loads the model of a verified bundle. Raises DimensionMismatch."""
        return cls(spec, (folder / spec.weights).read_text("utf-8"))

    def raw(self, evidence: Floats) -> Doubles:
        """Returns log-odds `(m,)` for evidence `(m, len(FEATURES))`, NaN where it is missing."""
        if not len(evidence):
            return np.zeros(0)
        found: Doubles = np.asarray(self._trees.predict(evidence, raw_score=True, num_threads=1), np.float64)
        return found

    def probability(self, evidence: Floats) -> Doubles:
        """Returns calibrated probabilities `(m,)`."""
        alone = np.isnan(evidence[:, FEATURES.index("rank")])
        raw = self.raw(evidence)
        return np.where(alone, self.spec.calibration["alone"](raw), self.spec.calibration["context"](raw))
