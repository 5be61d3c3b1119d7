"""Candidates that only show up once every listing is blended with its neighbours, beside those of the plain search."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from app.core.expansion import expand
from app.core.neighbourhood import HASH_ONLY, Ground
from app.core.pairs import CONTEXT
from app.core.ranking import Lists
from app.evaluation.features import Features
from app.evaluation.neighbours import Search

BLENDED = 10  # neighbours that a listing is blended with
RESERVED = 10  # of the CONTEXT places of a listing, those for what the plain search ranks lower or does not find

Rows = NDArray[np.int64]


def expanded(features: Features, lists: Lists, bounds: Mapping[str, float]) -> Features:
    """Returns the listings with each vector blended with those of its best neighbours above the threshold.

    Args:
        features: of `n` listings.
        lists: the candidates of each of them. Their scores, raised by hashes, weigh the neighbours.
        bounds: the thresholds for this gallery, see `app.core.neighbourhood.Ground`.
    """
    if features.fusion is None:
        raise ValueError("there is nothing to blend without a bundle")
    lowest = Ground(features.fusion, bounds, len(features)).by_kind()
    rows = lists.rows()
    place = np.arange(len(rows)) - lists.starts[rows]
    # two listings that share nothing but a hash have no halves to blend
    near = (lists.scores >= lowest[lists.kinds]) & (lists.kinds != HASH_ONLY) & (place < BLENDED)
    starts = np.concatenate([[0], np.cumsum(near)])[lists.starts].astype(np.int64)
    cut = features.fusion.image_dim
    return replace(features, vectors=expand(features.vectors, cut, starts, lists.others[near], lists.scores[near]))


def with_expansion(features: Features, lists: Lists, labels: Rows, bounds: Mapping[str, float]) -> Lists:
    """Adds candidates of a second search, in which every listing is blended with its neighbours.

    A listing keeps its best `CONTEXT - RESERVED` candidates; the next places are for the best of the second search that are
    not among them. Scores, and the order that follows from them, are those of the vectors as they are.

    Args:
        features: of `n` listings.
        lists: the candidates of each of them, by the vectors as they are.
        labels: `(n,)` int64 groups, -1 for none.
        bounds: the thresholds for this gallery.
    """
    blended = expanded(features, lists, bounds)
    more = Search(blended, len(blended), CONTEXT, lambda _: None).lists(labels)
    parts = [(np.zeros(0, np.int64), np.zeros(0), np.zeros(0, np.uint8))]
    for row in range(len(lists)):
        plain, second = (one.others[one.starts[row] : one.starts[row + 1]] for one in (lists, more))
        chosen = _shared_out(plain, second)
        scores, kinds = features.score(row, chosen)
        order = np.lexsort((chosen, -scores))
        parts.append((chosen[order], scores[order], kinds[order]))
    others, scores, kinds = (np.concatenate([one[part] for one in parts]) for part in range(3))
    lengths = [len(one[0]) for one in parts]
    asking = np.repeat(labels[: len(lists)], lengths[1:])
    same = (labels[others] == asking) & (asking >= 0)
    return replace(lists, starts=np.cumsum(lengths), others=others, scores=scores, same=same, kinds=kinds)


def _shared_out(plain: Rows, second: Rows) -> Rows:
    """Returns at most `CONTEXT` of two lists, best first each."""
    kept = plain[: CONTEXT - RESERVED]
    fresh = second[~np.isin(second, kept)][:RESERVED]
    rest = plain[len(kept) :]
    return np.concatenate([kept, fresh, rest[~np.isin(rest, fresh)]])[:CONTEXT]
