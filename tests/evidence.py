"""Neighbourhoods of random listings, and tables of evidence whose truth is known: what pair models are tested with."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray

from app.core.fusion import HAS_BOTH, HAS_IMAGE, HAS_TITLE, Fusion
from app.core.neighbourhood import Ground, Members
from app.core.pairs import FEATURES
from app.core.product import Floats
from app.evaluation.evidence import Table
from app.evaluation.features import Features
from app.pair_model import PairModel
from app.training.pair_model import Fitted, fit_pair_model

TWO_TOWERS = Fusion(weight=0.4, image_dim=4, title_dim=5)
BOUNDS = {"fused": 0.53, "image": 0.61, "title": 0.47}
WORDS = ["madu", "hutan", "kopi", "500gr", "1kg", "isi 2", "original", "!!!"]


def ground(fusion: Fusion = TWO_TOWERS, gallery: int = 1000) -> Ground:
    return Ground(fusion, BOUNDS, gallery)


def unit_rows(random: np.random.Generator, n: int, dim: int) -> Floats:
    """Unit vectors that lean to one side, so that many are alike."""
    rows = random.normal(size=(n, dim)) + random.uniform(0, 1.5, (n, 1))
    unit: Floats = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return unit


def members(seed: int, flags: Sequence[int], hashed: Sequence[bool], twins: int = 0) -> Members:
    """Listings as they are flagged, the query first; the last `twins` are copies of those before them."""
    random = np.random.default_rng(seed)
    n, cut = len(flags), TWO_TOWERS.image_dim
    image, title = unit_rows(random, n, cut), unit_rows(random, n, TWO_TOWERS.title_dim)
    close = [sum(1 << int(bit) for bit in set(random.integers(0, 64, random.integers(0, 14)))) for _ in range(n)]
    hashes = np.array(close, np.uint64) ^ np.uint64(0x5555_AAAA_5555_AAAA)
    texts = [" ".join(random.choice(WORDS, 3)) for _ in range(n)]
    kinds = np.array(flags, np.uint8)
    for copy in range(n - twins, n):
        if copy > 1:
            for values in (image, title, kinds, hashes):
                values[copy] = values[copy - 1]
    vectors = np.concatenate([np.sqrt(TWO_TOWERS.weight) * image, np.sqrt(1 - TWO_TOWERS.weight) * title], axis=1)
    vectors[:, :cut][kinds & HAS_IMAGE == 0] = 0
    vectors[:, cut:][kinds & HAS_TITLE == 0] = 0
    titles = [text if kind & HAS_TITLE else None for text, kind in zip(texts, kinds, strict=True)]
    return Members(vectors.astype(np.float32), kinds, titles, hashes, np.array(hashed, np.bool_))


def plain_members(seed: int, n: int) -> Members:
    """Listings with photo, title and hash."""
    return members(seed, [HAS_BOTH] * n, [True] * n)


# Of `truth`: mean among pairs of two groups, mean among pairs of one, standard deviation.
SIGNALS = {"title": (0.4, 0.8, 0.2), "image": (0.4, 0.7, 0.2), "blended_2": (0.4, 0.7, 0.2)}
EACH = 4  # listings of a group
STRANGERS = 6  # candidates of each listing that are of another group


def synthetic(groups: int, seed: int) -> tuple[Table, NDArray[np.int64]]:
    """A table whose log-odds are a known sum: three normal signals that differ between true and false pairs.

    Returns:
        The pairs, and the groups of the listings.
    """
    random = np.random.default_rng(seed)
    labels = np.repeat(np.arange(groups), EACH)
    n = len(labels)
    rows, others = [], []
    for row in range(n):
        mates = [other for other in range(row // EACH * EACH, (row // EACH + 1) * EACH) if other != row]
        strangers = random.choice(np.flatnonzero(labels != labels[row]), STRANGERS, replace=False)
        rows += [row] * (len(mates) + STRANGERS)
        others += [*mates, *strangers.tolist()]
    asked, found = np.array(rows), np.array(others)
    same = labels[asked] == labels[found]
    values = np.full((len(asked), len(FEATURES)), np.nan, np.float32)
    values[:, FEATURES.index("rank")] = 1
    for name, (apart, alike, spread) in SIGNALS.items():
        values[:, FEATURES.index(name)] = random.normal(np.where(same, alike, apart), spread)
    return Table(asked, found, values, same), labels


def truth(evidence: Floats) -> NDArray[np.float64]:
    """The probability that pairs of `synthetic` are the same, by Bayes."""
    odds = np.full(len(evidence), np.log((EACH - 1) / STRANGERS))
    for name, (apart, alike, spread) in SIGNALS.items():
        value = evidence[:, FEATURES.index(name)].astype(np.float64)
        odds += (alike - apart) * (value - (alike + apart) / 2) / spread**2
    known: NDArray[np.float64] = 1 / (1 + np.exp(-odds))
    return known


@cache
def fitted() -> Fitted:
    """A pair model that has learned `synthetic`."""
    return fit_pair_model(*synthetic(150, seed=1), rounds=80)


@cache
def small_model() -> PairModel:
    """The same, ready for use: title, image and blending with neighbours speak for a pair, nothing else counts."""
    return PairModel(fitted().spec, fitted().texts)


def clusters(groups: int, each: int, seed: int, noise: float = 0.1) -> tuple[Features, list[str | None], NDArray[np.int64]]:
    """Listings of groups that stand apart: features, titles, and the group of each. All have photo, title and hash."""
    random = np.random.default_rng(seed)
    labels = np.repeat(np.arange(groups), each)
    n, rows = len(labels), []
    for dim in (TWO_TOWERS.image_dim, TWO_TOWERS.title_dim):
        around = random.normal(size=(groups, dim))
        around /= np.linalg.norm(around, axis=1, keepdims=True)
        noisy = around[labels] + noise * random.normal(size=(n, dim))
        rows.append((noisy / np.linalg.norm(noisy, axis=1, keepdims=True)).astype(np.float32))
    vectors = np.concatenate([np.sqrt(TWO_TOWERS.weight) * rows[0], np.sqrt(1 - TWO_TOWERS.weight) * rows[1]], axis=1)
    hashes = random.integers(0, 2**63, groups).astype(np.uint64)[labels]
    titles: list[str | None] = [f"{WORDS[label % len(WORDS)]} no {label}" for label in labels]
    known = np.full(n, HAS_BOTH, np.uint8)
    return Features(TWO_TOWERS, vectors.astype(np.float32), known, hashes, np.ones(n, np.bool_)), titles, labels


def taken_from(features: Features, places: Sequence[int] | NDArray[np.int64]) -> Features:
    """The listings at those places, in that order."""
    return features.of(np.asarray(places, np.int64))
