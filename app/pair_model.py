"""The pair model of a bundle: gradient-boosted trees over the evidence about a pair."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import lightgbm
import numpy as np
from numpy.typing import NDArray

from app.core.judging import PairSpec, Setting
from app.core.pairs import FEATURES
from app.core.product import Floats
from app.errors import DimensionMismatch

Doubles = NDArray[np.float64]


class PairModel:
    """Evidence -> probability that both are the same product. Methods may be called from several threads."""

    def __init__(self, spec: PairSpec, texts: Mapping[Setting, str]) -> None:
        """Takes the trees as text, by what they are for.

        Raises:
            DimensionMismatch: they are no trees, or read other features than the specification says.
        """
        self.spec = spec
        self._trees = {setting: _booster(texts[setting], file) for setting, file in spec.weights.items()}

    @classmethod
    def load(cls, spec: PairSpec, folder: Path) -> PairModel:
        """Loads the model of a verified bundle. Raises DimensionMismatch."""
        return cls(spec, {setting: (folder / file).read_text("utf-8") for setting, file in spec.weights.items()})

    def probability(self, evidence: Floats) -> Doubles:
        """Returns calibrated probabilities `(m,)` for evidence `(m, len(FEATURES))`, NaN where it is missing."""
        alone = np.isnan(evidence[:, FEATURES.index("rank")])
        found = np.zeros(len(evidence))
        settings: tuple[tuple[Setting, NDArray[np.bool_]], ...] = (("context", ~alone), ("alone", alone))
        for setting, rows in settings:
            if rows.any():
                found[rows] = self.spec.calibration[setting](self.raw(evidence[rows], setting))
        return found

    def raw(self, evidence: Floats, setting: Setting) -> Doubles:
        """Returns log-odds `(m,)` by the trees for one setting."""
        if not len(evidence):
            return np.zeros(0)
        found: Doubles = np.asarray(self._trees[setting].predict(evidence, raw_score=True, num_threads=1), np.float64)
        return found


def _booster(text: str, file: str) -> lightgbm.Booster:
    try:
        found = lightgbm.Booster(model_str=text)
    except lightgbm.basic.LightGBMError as error:
        raise DimensionMismatch(f"{file} is no LightGBM model: run calibrate again.") from error
    if tuple(found.feature_name()) != FEATURES:
        raise DimensionMismatch(f"{file} reads other evidence than the manifest says: run calibrate again.")
    return found
