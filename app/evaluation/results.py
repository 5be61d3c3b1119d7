"""What an evaluation says: every number, and what a report needs to show where a bundle fails."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.core.product import Floats
from app.evaluation.galleries import GalleryPoint

DECIMALS = 6


@dataclass(frozen=True, slots=True)
class Pair:
    """Two listings and their score."""

    query: str
    other: str
    score: float


@dataclass(frozen=True, slots=True)
class Histogram:
    """Scores of pairs, counted in bins between `edges` (one more than bins).

    Attributes:
        same: true pairs.
        different: random false pairs.
        near: false pairs among the candidates, the hard ones.
    """

    edges: list[float]
    same: list[int]
    different: list[int]
    near: list[int]


@dataclass(frozen=True, slots=True)
class F1Curve:
    """F1, precision and recall of each threshold; see `app.core.metrics.Curve`."""

    threshold: list[float]
    f1: list[float]
    precision: list[float]
    recall: list[float]


@dataclass(frozen=True, slots=True)
class Sample:
    """Whole groups of listings for a map: ids, labels `(m,)`, vectors `(m, dim)` float32."""

    ids: list[str]
    labels: NDArray[np.int64]
    vectors: Floats


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What was measured. Rates are in [0, 1], NaN where nothing of the kind could be measured (null in JSON).

    Queries are the listings with a group; the gallery is all listings and all distractors. A listing without a group and a
    distractor are a false match of whoever returns them.

    Attributes:
        bundle: label of the bundle, None if only hashes were compared.
        data: names and checksums of the tables, the fold.
        signals: what was compared.
        modality: what most queries have, `fused`, `image`, `title` or `phash`: whose threshold `threshold` is.
        listings, queries, groups, gallery: sizes.
        threshold: the bundle's own for this modality and gallery size (`phash.THRESHOLD` for hashes alone). Pairs that
            share less are held against the threshold of what they share, as the service does.
        f1_at_threshold, precision_at_threshold, recall_at_threshold: means over queries, the query itself included in what
            is true and in what is returned: the competition's metric.
        f1_best, best_threshold: of the one threshold for all pairs that is best on these very listings: optimistic.
        recall_at_1, recall_at_20, map_at_20, map_at_r, recall_at_20_self, map_at_20_self: see `app.core.ranking.Ranked`.
        roc_auc: true pairs against random false ones; near 1 for any model, for most pairs are easy.
        roc_auc_hard: true against false pairs among the candidates.
        pr_auc: average precision over all pairs.
        recall_at_precision_95, recall_at_precision_99: over all pairs.
        unmatchable: queries without another member in the gallery.
        false_matches_unmatchable: share of them with a false match at the threshold.
        false_matches_unmatchable_mean: how many false matches they get.
        neighbours: candidates of each query and question, at least.
        exact: False if memory did not allow for lists long enough for both thresholds.
        exact_from: the thresholds of `f1_curve` from here on are exact; below, what lies beyond a list is not counted.
        f1_by_gallery: the same queries among more and more distractors.
        f1_curve, scores: for plots.
        false_matches, misses: false pairs above and true pairs below the threshold, the worst first.
        sample: for a map; None without vectors. Not in JSON.
        matches: for each listing the ids at or above the threshold, itself first. Not in JSON.
    """

    bundle: str | None
    data: Mapping[str, Any]
    signals: Sequence[str]
    modality: str
    listings: int
    queries: int
    groups: int
    gallery: int
    threshold: float
    f1_at_threshold: float
    precision_at_threshold: float
    recall_at_threshold: float
    f1_best: float
    best_threshold: float
    recall_at_1: float
    recall_at_20: float
    map_at_20: float
    map_at_r: float
    recall_at_20_self: float
    map_at_20_self: float
    roc_auc: float
    roc_auc_hard: float
    pr_auc: float
    recall_at_precision_95: float
    recall_at_precision_99: float
    unmatchable: int
    false_matches_unmatchable: float
    false_matches_unmatchable_mean: float
    neighbours: int
    exact: bool
    exact_from: float
    f1_by_gallery: list[GalleryPoint]
    f1_curve: F1Curve
    scores: Histogram
    false_matches: list[Pair]
    misses: list[Pair]
    sample: Sample | None = field(repr=False)
    matches: list[list[str]] = field(repr=False)

    def to_json(self) -> dict[str, Any]:
        """Returns everything but `sample` and `matches` as JSON can carry it: 6 decimals, NaN and infinities as None."""
        names = [one.name for one in fields(self) if one.name not in ("sample", "matches")]
        return {name: _plain(getattr(self, name)) for name in names}


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, DECIMALS) if math.isfinite(value) else None
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if is_dataclass(value) and not isinstance(value, type):
        value = asdict(value)
    return {key: _plain(one) for key, one in value.items()} if isinstance(value, Mapping) else value
