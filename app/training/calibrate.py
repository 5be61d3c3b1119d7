"""Fitting the cosine thresholds of a bundle: per modality of the query, per size of the gallery."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from app.core.decision import Thresholds
from app.core.fusion import MODALITY_OF, Fusion
from app.core.metrics import Curve, middle_of_best, threshold_curve
from app.core.product import Floats
from app.errors import InvalidListings

GRID = np.round(np.arange(0.0, 1.0, 0.005), 3)
# the smallest are for small shops of many kinds of things; one of a single kind holds more look-alikes than they expect
SIZES = (100, 300, 1000, 3000, 10_000, 30_000)
DRAWN_ROWS = 3000  # by all draws of one size together, so that a small gallery is no matter of luck
MIN_DRAWS = 3
MIN_ROWS = 50
Criterion = Literal["decision", "f1"]
NEEDED = {modality: flags for flags, modality in MODALITY_OF.items()}


@dataclass(frozen=True, slots=True)
class Labelled:
    """Embedded listings: fused rows `(n, dim)`, flags `(n,)`, group labels `(n,)`."""

    rows: Floats
    flags: NDArray[np.uint8]
    groups: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Point:
    """The metrics of one threshold, modality and gallery size, see `app.core.metrics.Curve`."""

    modality: str
    gallery: int
    threshold: float
    f1: float
    precision: float
    recall: float
    decision: float


def fit_thresholds(
    data: Labelled, fusion: Fusion, criterion: Criterion = "decision", seed: int = 0, more: Labelled | None = None
) -> list[Point]:
    """Finds the best threshold for each modality and gallery size.

    By `Curve.decision`, where half of the queries have their product in the catalog and half have not, or by `Curve.f1`,
    the competition's metric, where every listing has a match and nothing else is asked.

    A gallery of a given size is a draw of whole groups; smaller ones are drawn more than once and averaged.

    Args:
        data: listings that ask.
        fusion: of the bundle.
        criterion: see above.
        seed: of the draws.
        more: listings of other products (their groups are not looked at), for one gallery larger than all that `data` has.
    """
    points = []
    for modality in NEEDED:
        vectors, groups = _of_modality(data, fusion, modality)
        for size in [s for s in SIZES if s < len(vectors)] + ([len(vectors)] if len(vectors) >= MIN_ROWS else []):
            count = max(MIN_DRAWS, DRAWN_ROWS // size) if size < len(vectors) else 1
            draws = [_draw(groups, size, seed + draw) for draw in range(count)]
            curves = [threshold_curve(vectors[kept], groups[kept], GRID) for kept in draws]
            worth = np.mean([getattr(curve, criterion) for curve in curves], axis=0)
            points.append(_point(modality, size, curves, middle_of_best(worth)))
        others = vectors[:0] if more is None else _of_modality(more, fusion, modality)[0]
        if len(others) and len(vectors) >= MIN_ROWS:
            gallery, known = np.concatenate([vectors, others]), np.append(groups, np.full(len(others), -1))
            curve = threshold_curve(gallery, known, GRID, len(vectors))
            points.append(_point(modality, len(gallery), [curve], middle_of_best(getattr(curve, criterion))))
    if not points:
        raise InvalidListings(
            f"thresholds need at least {MIN_ROWS} labelled rows of a modality, there are {len(data.groups)}."
        )
    return points


def thresholds_of(points: Sequence[Point]) -> Thresholds:
    """Returns fitted points as thresholds that never fall as the gallery grows (a fall is noise of the draw)."""
    fitted: dict[str, list[tuple[int, float]]] = {}
    for point in points:
        known = fitted.setdefault(point.modality, [])
        known.append((point.gallery, max(point.threshold, known[-1][1] if known else -1.0)))
    return Thresholds(fitted)


def joined(before: Thresholds, fitted: Thresholds) -> Thresholds:
    """Returns the fitted thresholds; a modality that the listings lack keeps what it had."""
    return Thresholds({**before.points, **fitted.points})


def measure(data: Labelled, fusion: Fusion, thresholds: Thresholds) -> list[Point]:
    """Measures thresholds on listings that they were not fitted to, with all of them as the gallery."""
    points = []
    for modality in thresholds.points:
        vectors, groups = _of_modality(data, fusion, modality)
        if len(vectors):
            threshold = thresholds.at(modality, len(vectors))
            curve = threshold_curve(vectors, groups, np.array([threshold]))
            points.append(_point(modality, len(vectors), [curve], 0))
    return points


def _point(modality: str, gallery: int, curves: Sequence[Curve], n: int) -> Point:
    """Returns the means of several draws at grid point `n`."""
    f1, precision, recall, decision = (
        float(np.mean([getattr(curve, name)[n] for curve in curves])) for name in ("f1", "precision", "recall", "decision")
    )
    return Point(modality, gallery, float(curves[0].thresholds[n]), f1, precision, recall, decision)


def _of_modality(data: Labelled, fusion: Fusion, modality: str) -> tuple[Floats, NDArray[np.int64]]:
    needed = NEEDED[modality]
    kept = (data.flags & needed) == needed
    rows, cut = data.rows[kept], fusion.image_dim
    if modality == "image":
        rows = rows[:, :cut] / np.sqrt(fusion.weight or 1)
    elif modality == "title":
        rows = rows[:, cut:] / np.sqrt((1 - fusion.weight) or 1)
    return rows.astype(np.float32), data.groups[kept]


def _draw(groups: NDArray[np.int64], size: int, seed: int) -> NDArray[np.int64]:
    """Returns the rows of random whole groups, about `size` of them."""
    labels = np.random.default_rng(seed).permutation(np.unique(groups))
    rank = np.empty(int(labels.max()) + 1, np.int64)
    rank[labels] = np.arange(len(labels))
    order = np.argsort(rank[groups], kind="stable")
    return np.sort(order[:size])
