"""How good are groups? Found groups against true ones, listing by listing and pair by pair.

B-cubed: Bagga and Baldwin, "Entity-Based Cross-Document Coreferencing Using the Vector Space Model", ACL 1998; the mean
over listings of the precision and recall of their own group, the listing itself included, and the harmonic mean of both.
Pairwise: precision and recall of all pairs of listings that stand in one group.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class GroupMetrics:
    """Each in [0, 1]; `competition_f1` is the mean over listings of `2 |T & P| / (|T| + |P|)`."""

    bcubed_precision: float
    bcubed_recall: float
    bcubed_f1: float
    pair_precision: float
    pair_recall: float
    pair_f1: float
    competition_f1: float


def group_metrics(found: Rows, true: Rows) -> GroupMetrics:
    """Compares two groupings of the same listings.

    Args:
        found: `(n,)` int64 label of the found group of each listing, n at least 1.
        true: `(n,)` int64 label of its true group.

    Returns:
        The metrics; without any pair in the found (true) groups, pair precision (recall) is 1.
    """
    found, true = (np.unique(labels, return_inverse=True)[1] for labels in (found, true))
    _, cell, both = np.unique(found * (true.max() + 1) + true, return_inverse=True, return_counts=True)
    overlap = both[cell]
    size, truth = np.bincount(found)[found], np.bincount(true)[true]
    precision, recall = float((overlap / size).mean()), float((overlap / truth).mean())
    right, predicted, wanted = float((overlap - 1).sum()), float((size - 1).sum()), float((truth - 1).sum())
    pair_precision = right / predicted if predicted else 1.0
    pair_recall = right / wanted if wanted else 1.0
    return GroupMetrics(
        precision,
        recall,
        _harmonic(precision, recall),
        pair_precision,
        pair_recall,
        _harmonic(pair_precision, pair_recall),
        float((2 * overlap / (size + truth)).mean()),
    )


def _harmonic(one: float, other: float) -> float:
    return 2 * one * other / (one + other) if one + other else 0.0
