"""Candidates of every listing among the others: by the vectors as they are, and by vectors blended with their neighbours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from app.core.expansion import ALPHA, expand
from app.core.neighbourhood import HASH_ONLY, Ground
from app.core.pairs import CONTEXT
from app.core.ranking import Lists
from app.evaluation.features import Features
from app.evaluation.neighbours import Search

BLENDED = 10  # neighbours of each listing that its vector is blended with
RESERVED = 10  # places among the candidates for those that only expansion finds, if it finds as many

Rows = NDArray[np.int64]


def expanded(features: Features, lists: Lists, bounds: Mapping[str, float], alpha: float = ALPHA) -> Features:
    """Returns the listings with each vector blended with those of its neighbours above the threshold."""
    if features.fusion is None:
        raise ValueError("there is nothing to blend without a bundle")
    lowest = Ground(features.fusion, bounds, len(features)).by_kind()
    rows = lists.rows()
    place = np.arange(len(rows)) - lists.starts[rows]
    near = (lists.scores >= lowest[lists.kinds]) & (lists.kinds != HASH_ONLY) & (place < BLENDED)
    starts = np.concatenate([[0], np.cumsum(near)])[lists.starts]
    cut = features.fusion.image_dim
    return replace(features, vectors=expand(features.vectors, cut, starts, lists.others[near], lists.scores[near], alpha))


def plain_lists(features: Features, labels: Rows) -> Lists:
    return Search(features, len(features), CONTEXT, lambda _: None).lists(labels)


def union(
    features: Features, one: Lists, other: Lists, labels: Rows, reserved: int = RESERVED, context: int = CONTEXT
) -> Lists:
    lengths, parts = [], []
    for row in range(len(one)):
        first = one.others[one.starts[row] : one.starts[row + 1]][:context]
        second = other.others[other.starts[row] : other.starts[row + 1]][:context]
        fresh = second[~np.isin(second, first[: context - reserved])]
        both = np.concatenate([first[: context - min(reserved, len(fresh))], fresh])
        both = both[np.sort(np.unique(both, return_index=True)[1])][:context]
        scores, kinds = features.score(row, both)
        order = np.lexsort((both, -scores))
        parts.append((both[order], scores[order], kinds[order]))
        lengths.append(len(both))
    others, scores, kinds = (np.concatenate([p[n] for p in parts]) for n in range(3))
    asking = np.repeat(labels[: len(one)], lengths)
    starts = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return Lists(starts, others, scores, (labels[others] == asking) & (asking >= 0), kinds, one.true, one.gallery)
