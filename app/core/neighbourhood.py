"""Neighbourhoods: a query, its best candidates, and every cosine among them.

From that follows how a candidate ranks for the query and the query for the candidate, how crowded it is around both, which
neighbours they share, and how alike they are once each is blended with its own neighbours. Ranks both ways, margins and
density are features of the pair models, and blending ("iterative neighbourhood blending") the last step of the winner, of
Shopee - Price Match Guarantee (Kaggle, 2021).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from app.core import phash
from app.core.fusion import HAS_BOTH, HAS_IMAGE, HAS_TITLE, MODALITY_OF, SCORE_DECIMALS, Fusion
from app.core.product import Floats

DENSEST = 10  # nearest neighbours that say how crowded it is around a listing
ROUNDS = 3  # of blending
WIDER = 0.12  # so far below the threshold, a neighbour still belongs to the wider circle
STEADY = 0.03  # added to standard deviations, so that equal neighbours do not make a score infinitely unusual
HASH_ONLY = 4  # beside the flags of app.core.fusion: two sides share a perceptual hash, and nothing that has a vector
NOT_THERE = -9.0  # below every score

TOGETHER = (
    "rank", "rank_back", "margin", "margin_back", "crowd", "crowd_back", "spread", "spread_back", "z", "z_back",
    "neighbours", "neighbours_back", "shared", "shared_wide", "path",
    "blended_1", "blended_2", "blended_3", "blended_rank", "blended_rank_back", "blended_margin",
)  # fmt: skip

Doubles = NDArray[np.float64]
Columns = Mapping[str, Doubles]


@dataclass(frozen=True, slots=True)
class Members:
    """A query and its `m` candidates: the query first, then the candidates, best first.

    Attributes:
        vectors: `(1 + m, dim)` float32 fused rows.
        flags: `(1 + m,)` uint8, HAS_IMAGE | HAS_TITLE.
        titles: `1 + m` clean titles, None where there is none.
        hashes: `(1 + m,)` uint64 perceptual hashes.
        hashed: `(1 + m,)` bool, which of them have one.
    """

    vectors: Floats
    flags: NDArray[np.uint8]
    titles: Sequence[str | None]
    hashes: phash.Hashes
    hashed: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Ground:
    """What a pair is judged against.

    Attributes:
        fusion: of the bundle.
        bounds: cosine thresholds by what two sides share (`image`, `title`, `fused`), for this gallery.
        gallery: products in the catalog; 0 if there is none, just two products.
    """

    fusion: Fusion
    bounds: Mapping[str, float]
    gallery: int

    def by_kind(self) -> Doubles:
        """`(5,)` thresholds by what two sides share; what cannot match has 1."""
        found = np.ones(HASH_ONLY + 1)
        for flag, modality in MODALITY_OF.items():
            found[flag] = self.bounds.get(modality, 1.0)
        found[HASH_ONLY] = phash.THRESHOLD
        return found


@dataclass(frozen=True, slots=True)
class Cosines:
    """Members against the first of them, all `(1 + m, columns)`.

    Attributes:
        image, title: cosines, NaN where one lacks the modality.
        score: as `Fusion.score_rows` has it; 0 where two share nothing.
        distance: of the perceptual hashes, NaN where one has none.
        raise_: what the hashes add to the score: the whole kernel where the two share nothing else, as in a search.
        bound: the threshold of the pair.
    """

    image: Doubles
    title: Doubles
    score: Doubles
    distance: Doubles
    raise_: Doubles
    bound: Doubles


def cosines(members: Members, ground: Ground, columns: int) -> Cosines:
    """Compares all members with the query and its best candidates, `columns` in all."""
    fusion, cut = ground.fusion, ground.fusion.image_dim
    one, other = members.vectors, members.vectors[:columns]
    shared = members.flags[:, None] & members.flags[None, :columns]
    # rounded, or else equal products get scores, and ranks, that differ by where they stand in the block
    image = _cosine(one[:, :cut], other[:, :cut], fusion.weight, (shared & HAS_IMAGE) != 0)
    title = _cosine(one[:, cut:], other[:, cut:], 1 - fusion.weight, (shared & HAS_TITLE) != 0)
    fused = fusion.weight * image + (1 - fusion.weight) * title
    score = np.where(shared == HAS_BOTH, fused, np.where(shared & HAS_IMAGE, image, np.where(shared, title, 0.0)))
    both = members.hashed[:, None] & members.hashed[None, :columns]
    apart = phash.distances(members.hashes[:, None], members.hashes[None, :columns])
    raised = np.where(both, np.where(shared, phash.WEIGHT, 1.0) * phash.kernel(apart), 0.0)
    kinds = np.where((shared == 0) & both, HASH_ONLY, shared)
    return Cosines(image, title, score, np.where(both, apart, np.nan), raised, ground.by_kind()[kinds])


def _cosine(one: Floats, other: Floats, weight: float, known: NDArray[np.bool_]) -> Doubles:
    if not one.shape[1]:
        return np.full(known.shape, np.nan)
    product = (one @ other.T).astype(np.float64)
    return np.where(known, (product / weight).round(SCORE_DECIMALS), np.nan)


def together(block: Cosines) -> Columns:
    """Returns what the neighbourhood says about each candidate, `(m,)` for each name of `TOGETHER`.

    Args:
        block: the query and all candidates against the context: the query and the best of them.
    """
    whole = block.score + block.raise_
    raised, bound = whole[1:], block.bound[1:]
    m, width = raised.shape
    own = np.arange(min(width - 1, m))  # candidate n of the context is its column n + 1
    score = raised[:, 0]
    others = raised.copy()
    others[own, own + 1] = NOT_THERE  # nobody is a neighbour of itself
    back = others.copy()
    back[:, 0] = NOT_THERE
    best_back = back.max(axis=1)
    found = {
        "rank": _rank(score),
        "rank_back": 1.0 + (back > score[:, None]).sum(axis=1),
        "margin": score - _best_other(score),
        "margin_back": score - np.where(best_back > NOT_THERE, best_back, 0.0),
    }
    found |= _density(score, others)
    found |= _common(whole[0], block.bound[0], raised, bound, others)
    blended = [one[1:].round(SCORE_DECIMALS) for one in _blends(block)]  # twins are equal in whatever order they are summed
    for number, rows in enumerate(blended, start=1):
        found[f"blended_{number}"] = rows[:, 0] + block.raise_[1:, 0]
    second = blended[1] + block.raise_[1:]
    second_back = second.copy()
    second_back[own, own + 1] = second_back[:, 0] = NOT_THERE
    found["blended_rank"] = _rank(second[:, 0])
    found["blended_rank_back"] = 1.0 + (second_back > second[:, :1]).sum(axis=1)
    found["blended_margin"] = second[:, 0] - _best_other(second[:, 0])
    return found


def _rank(scores: Doubles) -> Doubles:
    """Returns 1 for the best; equal scores share the better rank."""
    better = len(scores) - np.searchsorted(np.sort(scores), scores, side="right")
    return 1.0 + better.astype(np.float64)


def _best_other(scores: Doubles) -> Doubles:
    """Returns the best of the others for each score, 0 where there is none."""
    if len(scores) == 1:
        return np.zeros(1)
    top = np.sort(scores)[::-1]
    first = np.flatnonzero(scores == top[0])[0]
    found: Doubles = np.repeat(top[:1], len(scores))
    found[first] = top[1]
    return found


def _density(score: Doubles, others: Doubles) -> Columns:
    """How crowded it is around the query and around each candidate: mean and deviation of the nearest scores."""
    top = np.sort(score)[::-1][:DENSEST]
    crowd, spread = np.full(len(score), top.mean()), np.full(len(score), top.std())
    nearest = others
    if others.shape[1] > DENSEST:  # sorted after that, so that the sums do not depend on the order of candidates
        nearest = np.sort(np.partition(others, -DENSEST, axis=1)[:, -DENSEST:], axis=1)
    known = nearest > NOT_THERE
    counts = known.sum(axis=1)
    crowd_back = np.where(known, nearest, 0.0).sum(axis=1) / counts
    spread_back = np.sqrt(np.where(known, (nearest - crowd_back[:, None]) ** 2, 0.0).sum(axis=1) / counts)
    return {
        "crowd": crowd,
        "crowd_back": crowd_back,
        "spread": spread,
        "spread_back": spread_back,
        "z": (score - crowd) / (spread + STEADY),
        "z_back": (score - crowd_back) / (spread_back + STEADY),
    }


def _common(asked: Doubles, asked_bound: Doubles, raised: Doubles, bound: Doubles, others: Doubles) -> Columns:
    """Which neighbours both sides have, themselves included; and the best way from one to the other over a third."""
    found = {}
    for name, wider in (("shared", 0.0), ("shared_wide", WIDER)):
        mine, theirs = asked >= asked_bound - wider, raised >= bound - wider
        either = (mine | theirs).sum(axis=1)
        found[name] = (mine & theirs).sum(axis=1) / np.maximum(either, 1)
        if not wider:
            found |= {"neighbours": np.full(len(raised), float(mine.sum())), "neighbours_back": theirs.sum(axis=1) * 1.0}
    third = np.minimum(asked, others)
    third[:, 0] = NOT_THERE
    found["path"] = np.maximum(third.max(axis=1), -1.0)
    return found


def _blends(block: Cosines) -> list[Doubles]:
    """Blends every listing with its neighbours above the threshold, weighted by their scores, and again from there.

    Works on inner products alone: with weights W, the cosines of the blended rows `W Z` are those of `W (Z Z') W'`.

    Returns:
        After each round the cosines of all members with the context, `(1 + m, width)`.
    """
    width = block.score.shape[1]
    inside, outside = block.score[:width].copy(), block.score[width:]  # outside: candidates beyond the context
    np.fill_diagonal(inside, 1.0)
    rounds = []
    for _ in range(ROUNDS):
        inner = _weights(inside + block.raise_[:width], block.bound[:width])
        np.fill_diagonal(inner, 1.0)
        reach = inner @ inside
        scale = _lengths((reach * inner).sum(axis=1))
        if len(outside):
            outer = _weights(outside + block.raise_[width:], block.bound[width:])
            far = outer @ inside
            length = _lengths((far * outer).sum(axis=1) + 2 * (outer * outside).sum(axis=1) + 1)
            outside = (far + outside) @ inner.T / length[:, None] / scale
        inside = reach @ inner.T / scale[:, None] / scale
        rounds.append(np.concatenate([inside, outside]))
    return rounds


def _lengths(squares: Doubles) -> Doubles:
    found: Doubles = np.sqrt(np.maximum(squares, 1e-12))
    return found


def _weights(raised: Doubles, bound: Doubles) -> Doubles:
    kept: Doubles = np.where(raised >= bound, np.maximum(raised, 0.0), 0.0)
    return kept
