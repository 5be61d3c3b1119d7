"""Fitting the pair model: gradient-boosted trees on candidate pairs, calibrated on pairs that the trees have not seen.

Groups are dealt into folds; the trees of all but one judge that one, so every pair gets an opinion of trees that never
saw its group. To these opinions the calibration is fitted (Platt, 1999), and the bounds. Isotonic regression would follow
the noise of a few mislabelled groups: see the table in docs/experiments.md. The trees that are kept see all folds
(LightGBM: Ke et al., NeurIPS 2017).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import lightgbm
import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from app.core.group_metrics import group_metrics
from app.core.grouping import average_linkage, edges_of
from app.core.judging import PairSpec, Platt, Setting
from app.core.metrics import calibration_error
from app.core.neighbourhood import TOGETHER
from app.core.pairs import FEATURES
from app.core.product import Floats
from app.errors import InvalidListings
from app.evaluation.evidence import NOBODY, Table, joined, some

FILES: dict[Setting, str] = {"context": "pair_model.txt", "alone": "pair_model_alone.txt"}
FOLDS = 5
FITS = 2 * (FOLDS + 1)  # in a neighbourhood and alone, every fold and all of them
ROUNDS = 200
LEARNING_RATE = 0.06
MIN_PAIRS = 50  # of either kind
FEW_PAIRS = 20_000
LONELY_SHARE = 0.25  # weight of a pair by itself beside the same pair in its context
SMALLER_SHARE = 0.3  # weight of a pair that is shown again in a smaller gallery
MIN_SLOPE = 0.01  # opinions that are worth nothing still have to rise
PRECISIONS = (*np.arange(0.5, 0.95, 0.05).round(2), 0.95, 0.96, 0.97, 0.98, 0.99, 0.995, 0.999)
GROUP_BOUNDS = (0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6)
AS_GOOD = (
    0.003  # of F1: of bounds that are about as good the highest is taken, catalogs are larger than what it was fitted to
)
REVIEWED = 0.98  # of the true candidate pairs are matches or come to review
RISING = {
    "image",
    "title",
    "score",
    "raised",
    "blended_1",
    "blended_2",
    "blended_3",
}  # more of it never speaks against a pair
FALLING = {"distance"}

Doubles = NDArray[np.float64]
Flags = NDArray[np.bool_]
Rows = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Fitted:
    """A pair model: its specification, and what held-out pairs were thought to be.

    Attributes:
        texts: the trees, as text.
        probability: `(pairs,)` of each pair of the table, by trees that did not see its group.
    """

    spec: PairSpec
    texts: dict[Setting, str]
    probability: Doubles

    def write(self, folder: Path) -> None:
        """Writes the trees into the folder of a bundle."""
        for setting, text in self.texts.items():
            (folder / self.spec.weights[setting]).write_text(text, "utf-8")


def fit_pair_model(
    table: Table,
    labels: Rows,
    smaller: Sequence[Table] = (),
    larger: Sequence[Table] = (),
    made: Flags | None = None,
    seed: int = 0,
    tick: Callable[[int], None] = lambda _: None,
    rounds: int = ROUNDS,
) -> Fitted:
    """Fits trees, calibration and bounds.

    Args:
        table: candidate pairs of listings that the towers were not trained on.
        labels: `(n,)` group of each listing.
        smaller: pairs of the same listings in smaller galleries; trees and calibration see them.
        larger: likewise in larger galleries; bounds are fitted to them, too, but for that of groups.
        made: `(n,)` listings that are nobody's; only trees see their pairs.
        seed: of folds and trees.
        tick: called with 1 after each of `FITS` fits.
        rounds: trees.

    Raises:
        InvalidListings: fewer than `MIN_PAIRS` pairs are the same, or differ.
    """
    made = np.zeros(len(labels), np.bool_) if made is None else made
    own, wide = len(table.same), joined(table, *larger)  # what the bounds are fitted to
    counted = real(wide, made)
    found = counted[:own]
    same, differ = int(table.same[found].sum()), int((~table.same[found]).sum())
    if min(same, differ) < MIN_PAIRS:
        raise InvalidListings(
            f"a pair model needs {MIN_PAIRS} candidate pairs of one group and {MIN_PAIRS} of two, there are {same:,} and "
            f"{differ:,}: give it more labelled listings."
        )
    fold = np.random.default_rng(seed).integers(0, FOLDS, int(labels.max()) + 1)[labels]
    fold = np.append(fold, NOBODY)  # NOBODY points at the last, and is in no fold
    raw, texts, calibration = dict[Setting, Doubles](), dict[Setting, str](), dict[Setting, Platt]()
    for setting, (shown, weights) in _learned(table, smaller, larger).items():
        asked = len(shown.same) if setting == "context" else own
        raw[setting] = _held_out(shown, weights, fold, seed, rounds, tick)[:asked]
        texts[setting] = _trees(shown, weights, seed, rounds).model_to_string()
        weighed = weights[:asked] * real(shown, made)[:asked]
        calibration[setting] = _platt(raw[setting], shown.same[:asked], weighed)
        tick(1)
    probability = calibration["context"](raw["context"])[: len(wide.same)]
    spec = PairSpec(
        weights=FILES,
        features=FEATURES,
        calibration=calibration,
        precision=_precision(probability[counted], wide.same[counted]),
        **_bounds(probability[counted], wide.same[counted]),
        group=_group_bound(probability[:own][found], some(table, found), labels, made),
    )
    return Fitted(spec, texts, probability[:own])


def real(table: Table, made: Flags) -> Flags:
    """Returns which pairs `(pairs,)` of a table are pairs of listings that are not `made` `(n,)`."""
    known = np.append(made, np.False_)  # NOBODY points at the last
    found: Flags = ~(known[table.rows] | known[table.others])
    return found


def _learned(table: Table, smaller: Sequence[Table], larger: Sequence[Table]) -> dict[Setting, tuple[Table, Doubles]]:
    """Returns the pairs that the trees for either setting see, and their weights; those that they are for come first."""
    own = len(table.same)
    lonely = replace(table, evidence=without_context(table.evidence))  # by itself, a pair is the same in every gallery
    many, few = (sum(len(one.same) for one in tables) for tables in (larger, smaller))
    return {
        "context": (joined(table, *larger, *smaller), np.repeat([1.0, SMALLER_SHARE], [own + many, few])),
        "alone": (joined(lonely, table), np.repeat([LONELY_SHARE, 1.0], own)),  # what contexts tell of titles holds without
    }


def _held_out(table: Table, weights: Doubles, fold: Rows, seed: int, rounds: int, tick: Callable[[int], None]) -> Doubles:
    """Returns what trees think of each pair that have not seen its group."""
    raw = np.zeros(len(table.same))
    for number in range(FOLDS):
        asked = fold[table.rows] == number
        seen = (fold[table.rows] != number) & (fold[table.others] != number)
        raw[asked] = _trees(some(table, seen), weights[seen], seed, rounds).predict(table.evidence[asked], raw_score=True)
        tick(1)
    return raw


@dataclass(frozen=True, slots=True)
class PairMetrics:
    """How right probabilities are on candidate pairs.

    Attributes:
        pairs, same: how many, and how many of them are of one group.
        calibration_error: expected, 15 bins.
        precision_at_95, precision_at_99: of the pairs above the bounds for a precision of .95 and .99; NaN where the model
            does not promise that much, or no pair is above.
        match_precision, match_recall: of the decision `match`; recall among the candidates.
    """

    pairs: int
    same: int
    calibration_error: float
    precision_at_95: float
    precision_at_99: float
    match_precision: float
    match_recall: float


def measure_pairs(probability: Doubles, same: Flags, spec: PairSpec) -> PairMetrics:
    """Measures probabilities `(pairs,)` of pairs that the model was not fitted to."""

    def precision(bound: float) -> float:
        above = probability >= bound
        return float(same[above].mean()) if above.any() else float("nan")

    top = spec.precision[-1][0]
    at_95, at_99 = (precision(spec.bound_for(wanted)) if wanted <= top else float("nan") for wanted in (0.95, 0.99))
    error = calibration_error(probability, same)
    recall = float((probability[same] >= spec.match).mean()) if same.any() else float("nan")
    return PairMetrics(len(same), int(same.sum()), error, at_95, at_99, precision(spec.match), recall)


def without_context(evidence: Floats) -> Floats:
    """Returns evidence as it would be for two products and nothing else."""
    alone = evidence.copy()
    alone[:, [FEATURES.index(name) for name in (*TOGETHER, "rare", "log_gallery", "over")]] = np.nan
    return alone


def _trees(table: Table, weights: Doubles, seed: int, rounds: int) -> lightgbm.Booster:
    """Grows trees on pairs with weights `(pairs,)`; few pairs get small trees."""
    few = len(table.same) < FEW_PAIRS
    monotone = [1 if name in RISING else -1 if name in FALLING else 0 for name in FEATURES]
    parameters = {
        "objective": "binary", "num_leaves": 15 if few else 31, "min_child_samples": 10 if few else 40,
        "learning_rate": LEARNING_RATE, "feature_fraction": 0.6, "bagging_fraction": 0.7, "bagging_freq": 1,
        "lambda_l2": 5.0, "monotone_constraints": monotone, "seed": seed, "deterministic": True, "force_row_wise": True,
        "num_threads": 1, "verbosity": -1,
    }  # fmt: skip
    same = table.same.astype(np.float32)
    data = lightgbm.Dataset(table.evidence, same, weight=weights, feature_name=list(FEATURES))
    return lightgbm.train(parameters, data, rounds)


def _platt(raw: Doubles, same: Flags, weights: Doubles) -> Platt:
    """Fits slope and offset; scikit-learn's penalty keeps the slope finite where opinions separate all pairs."""
    fitted = LogisticRegression().fit(raw[:, None], same, sample_weight=weights)
    slope, offset = float(fitted.coef_[0, 0]), float(fitted.intercept_[0])
    return Platt(slope=round(max(slope, MIN_SLOPE), 5), offset=round(offset, 5))


def _precision(probability: Doubles, same: Flags) -> tuple[tuple[float, float], ...]:
    """Returns for each of `PRECISIONS` that is reached the smallest probability above which pairs are right that often."""
    order = np.argsort(-probability, kind="stable")
    sorted_p = probability[order]
    last = np.flatnonzero(np.append(np.diff(sorted_p) != 0, True))
    precision = (np.cumsum(same[order]) / np.arange(1, len(order) + 1))[last]
    found: list[tuple[float, float]] = []
    for wanted in PRECISIONS:
        reached = np.flatnonzero(precision >= wanted)
        if len(reached):
            found.append((float(wanted), max(float(sorted_p[last[reached[-1]]]), found[-1][1] if found else 0.0)))
    return tuple(found) or ((0.5, 1.0),)


def _bounds(probability: Doubles, same: Flags) -> dict[str, float]:
    """Finds the bound of a match by the F1 of pairs, and that of review by recall."""
    grid = np.arange(0.05, 0.96, 0.01)
    right = np.array([(same & (probability >= bound)).sum() for bound in grid])
    found = np.array([(probability >= bound).sum() for bound in grid])
    match = float(grid[(2 * right / (found + same.sum())).argmax()])
    review = float(np.quantile(probability[same], 1 - REVIEWED))
    return {"match": round(match, 4), "review": round(min(review, match), 4)}


def _group_bound(probability: Doubles, table: Table, labels: Rows, made: Flags) -> float:
    """Finds the bound of groups by their F1."""
    number, groups = np.cumsum(~made) - 1, labels[~made]
    edges = edges_of(number[table.rows], number[table.others], probability)
    scores = [group_metrics(average_linkage(edges, len(groups), bound), groups).competition_f1 for bound in GROUP_BOUNDS]
    return max(bound for bound, score in zip(GROUP_BOUNDS, scores, strict=True) if score >= max(scores) - AS_GOOD)
