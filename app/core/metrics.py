"""How good is a threshold? The competition's metric, over a grid of thresholds at once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from app.core.product import Floats

BLOCK_ROWS = 1024


@dataclass(frozen=True, slots=True)
class Curve:
    """What each threshold would give, as means over listings.

    Attributes:
        thresholds: `(t,)`, rising.
        f1, precision, recall: `(t,)`, of the matches with the listing itself included (the competition's metric).
        found: `(t,)`, F1 with the listing itself left out, over the listings that have another one in their group.
        clean: `(t,)`, share of the same listings for which nothing outside their group is returned: what they would
            see if their product were not in the catalog.
    """

    thresholds: NDArray[np.float64]
    f1: NDArray[np.float64]
    precision: NDArray[np.float64]
    recall: NDArray[np.float64]
    found: NDArray[np.float64]
    clean: NDArray[np.float64]

    @property
    def decision(self) -> NDArray[np.float64]:
        """`(t,)`, the mean of `found` and `clean`: half of the queries have a match in the catalog, half have none.

        F1 alone does not do: with many listings that match nothing it is best where nothing is ever returned,
        and with few it forgives false matches.
        """
        return (self.found + self.clean) / 2

    def best(self) -> int:
        """Position of the best F1, see `middle_of_best`."""
        return middle_of_best(self.f1)

    def at(self, threshold: float) -> int:
        """Position of the grid point nearest to a threshold."""
        return int(np.abs(self.thresholds - threshold).argmin())


def calibration_error(probability: NDArray[np.float64], same: NDArray[np.bool_], bins: int = 15) -> float:
    """Returns the expected calibration error: how far probabilities are from the share of pairs that are the same.

    Pairs are put into bins of equal width; the mean of the distances, weighted by the pairs in each (Naeini et al.,
    "Obtaining Well Calibrated Probabilities Using Bayesian Binning", AAAI 2015). NaN without pairs.
    """
    if not len(probability):
        return float("nan")
    place = np.minimum((probability * bins).astype(np.int64), bins - 1)
    told, true = (np.bincount(place, values, minlength=bins) for values in (probability, same.astype(np.float64)))
    return float(np.abs(told - true).sum() / len(probability))


def middle_of_best(values: NDArray[np.float64]) -> int:
    """Returns the position of the largest value; of equal ones the middle, which is the safest threshold."""
    top = np.flatnonzero(values >= values.max() - 1e-12)
    return int(top[len(top) // 2])


def threshold_curve(
    vectors: Floats, groups: NDArray[np.int64], thresholds: NDArray[np.float64], queries: int | None = None
) -> Curve:
    """Scores thresholds by Shopee's metric: the mean over listings of `2 |T & P| / (|T| + |P|)`.

    T are the listings of the same group, P those whose cosine reaches the threshold; both hold the listing itself.

    Args:
        vectors: `(n, dim)` float32, unit rows; all are the gallery.
        groups: `(n,)` int64 labels; -1 for rows that are of no query's group.
        thresholds: `(t,)` float64, rising.
        queries: so many rows ask, the first; None for all. They have a group.
    """
    queries = len(vectors) if queries is None else queries
    sizes = np.bincount(groups[groups >= 0])[groups[:queries]]
    sums = np.zeros((5, len(thresholds)))
    paired = max(1, int((sizes > 1).sum()))
    for start in range(0, queries, BLOCK_ROWS):
        stop = min(start + BLOCK_ROWS, queries)
        scores = vectors[start:stop] @ vectors.T
        scores[np.arange(stop - start), np.arange(start, stop)] = 2.0  # itself, whatever rounding says
        same = groups[start:stop, None] == groups[None, :]
        # how many scores reach each threshold: count them into the gaps between thresholds, add up from the top
        gap = np.searchsorted(thresholds, scores, side="right")
        rows = np.arange(stop - start)[:, None]
        slots = len(thresholds) + 1
        flat = (rows * slots + gap).ravel()
        predicted = reaching(np.bincount(flat, minlength=(stop - start) * slots).reshape(-1, slots))
        right = reaching(np.bincount(flat[same.ravel()], minlength=(stop - start) * slots).reshape(-1, slots))
        sums += sums_of(predicted, right, sizes[start:stop])
    return Curve(thresholds, *(sums[:3] / queries), *(sums[3:] / paired))


def sums_of(predicted: NDArray[np.int64], right: NDArray[np.int64], true: NDArray[np.int64]) -> NDArray[np.float64]:
    """Adds up over listings what a `Curve` holds the means of.

    Args:
        predicted: `(n, t)`, listings returned at each threshold, the asking one included.
        right: `(n, t)`, those of them that are of its group.
        true: `(n,)`, listings of its group in the gallery; each counts the asking one.

    Returns:
        `(5, t)`: f1, precision, recall over all listings; found, clean over those with another one in their group.
    """
    size = true[:, None]
    asked = true > 1
    return np.stack(
        [
            (2 * right / (size + predicted)).sum(0),
            (right / predicted).sum(0),
            (right / size).sum(0),
            (2 * (right - 1) / np.maximum(size + predicted - 2, 1))[asked].sum(0),
            (predicted == right)[asked].sum(0),
        ]
    )


def reaching(gaps: NDArray[np.int64]) -> NDArray[np.int64]:
    """`(rows, t + 1)` counts per gap -> `(rows, t)` counts at or above each threshold."""
    return gaps[:, ::-1].cumsum(axis=1)[:, ::-1][:, 1:]
