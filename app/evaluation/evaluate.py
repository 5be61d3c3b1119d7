"""How good is a bundle on labelled listings? From embedded listings to every number."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.core import phash
from app.core.decision import Thresholds
from app.core.metrics import Curve
from app.core.neighbourhood import HASH_ONLY
from app.core.ranking import (
    Lists,
    average_precision,
    curve,
    decided,
    ranked,
    reached,
    recall_at_precision,
    roc_auc,
)
from app.errors import InvalidListings
from app.evaluation.features import KINDS, NAME_OF, Features, halves
from app.evaluation.galleries import f1_by_gallery
from app.evaluation.neighbours import Search, TruePairs, sample_pairs
from app.evaluation.results import Evaluation, F1Curve, Histogram, Pair, Sample
from app.evaluation.subjects import Subjects

NEIGHBOURS = 100
ROOM = 20  # candidates beyond the largest group
MOST_NEIGHBOURS = 1000
FALSE_PAIRS = 1_000_000
STEP = 0.005
BINS = 100
SHOWN = 24
MAPPED = 2000

Rows = NDArray[np.int64]
Doubles = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class About:
    """What the numbers belong to, see `Evaluation`."""

    bundle: str | None
    data: Mapping[str, Any]
    signals: Sequence[str]


def evaluate(
    features: Features,
    subjects: Subjects,
    thresholds: Thresholds | None,
    about: About,
    tick: Callable[[int], None] = lambda _: None,
    neighbours: int = NEIGHBOURS,
    seed: int = 0,
) -> Evaluation:
    """Measures everything.

    Memory beyond the vectors is that of the candidate lists: about 18 bytes for each neighbour of each listing.

    Args:
        features: of all subjects.
        subjects: whom they belong to.
        thresholds: the bundle's; None if only hashes are compared.
        about: is passed on.
        tick: called with the number of listings just searched.
        neighbours: candidates of each question; more where a group is larger or a list too short.
        seed: of random false pairs, smaller galleries and the sample.

    Raises:
        InvalidListings: no listing has a group.
    """
    labels, asking = subjects.labels, np.flatnonzero(subjects.labels[: subjects.listings] >= 0)
    if not len(asking):
        raise InvalidListings("no listing has a group: name the column with --group-column, or choose another fold.")
    largest = int(np.bincount(labels[asking]).max())
    k = max(neighbours, min(largest + ROOM, MOST_NEIGHBOURS))
    grid, bounds = _grid(features), bounds_at(thresholds, len(features))
    search = Search(features, subjects.listings, k, tick)
    everyone, lists, by_threshold = _long_enough(search, labels, asking, grid, bounds)
    best = by_threshold.best()
    main = _main_kind(features.flags[asking])
    pairs, different = sample_pairs(features, labels, subjects.listings, FALSE_PAIRS, seed)
    taken = reached(everyone, bounds)
    return Evaluation(
        bundle=about.bundle,
        data=about.data,
        signals=about.signals,
        modality=NAME_OF[main],
        listings=subjects.listings,
        queries=len(asking),
        groups=len(np.unique(labels[asking])),
        gallery=len(features),
        threshold=float(bounds[main]),
        f1_best=float(by_threshold.f1[best]),
        best_threshold=float(grid[best]),
        **_decisions(lists, bounds),
        **_ranking(lists),
        roc_auc=roc_auc(pairs.scores, different),
        neighbours=k,
        exact=search.complete(_lowest(lists, bounds, float(grid[best]))),
        exact_from=search.exact_from(),
        f1_by_gallery=f1_by_gallery(lists, labels, lambda size: bounds_at(thresholds, size), main, grid, seed),
        f1_curve=_plotted(by_threshold),
        scores=_histogram(pairs.scores, different, lists.scores[~lists.same], features.top()),
        false_matches=_false_matches(everyone, taken & ~everyone.same, subjects),
        misses=_misses(pairs, bounds, subjects),
        sample=_sample(features, subjects, main, seed),
        matches=_matches(everyone, taken, subjects),
    )


def bounds_at(thresholds: Thresholds | None, gallery: int) -> Doubles:
    """Returns the thresholds of a gallery size by what two sides share, `(KINDS,)`; what cannot match has infinity."""
    bounds = np.full(KINDS, np.inf)
    bounds[HASH_ONLY] = phash.THRESHOLD
    for kind, name in NAME_OF.items():
        if thresholds is not None and name in thresholds.points:
            bounds[kind] = thresholds.at(name, gallery)
    return bounds


def _long_enough(search: Search, labels: Rows, asking: Rows, grid: Doubles, bounds: Doubles) -> tuple[Lists, Lists, Curve]:
    """Lengthens the lists until they hold all pairs at the bundle's threshold and at the best one.

    Returns:
        The lists of all listings, those of the queries (`asking`), and their curve.
    """
    while True:
        everyone = search.lists(labels)
        lists = everyone.within(asking, np.ones(len(labels), np.bool_)) if len(asking) < len(everyone) else everyone
        found = curve(lists, grid)
        if not search.lengthen(_lowest(lists, bounds, float(grid[found.best()]))):
            return everyone, lists, found


def _lowest(lists: Lists, bounds: Doubles, best: float) -> float:
    return min(best, float(bounds[np.unique(lists.kinds)].min(initial=np.inf)))


def _grid(features: Features) -> Doubles:
    lowest = 0.0 if features.flags.any() else STEP  # hashes that say nothing have the score 0
    grid: Doubles = np.arange(lowest, features.top() + STEP / 2, STEP).round(3)
    return grid


def _main_kind(flags: NDArray[np.uint8]) -> int:
    """Returns what most queries have."""
    counts = np.bincount(flags, minlength=KINDS)
    counts[0] = 0
    return int(counts.argmax()) if counts.any() else HASH_ONLY


def _decisions(lists: Lists, bounds: Doubles) -> dict[str, Any]:
    found = decided(lists, reached(lists, bounds))
    return {
        "f1_at_threshold": found.f1,
        "precision_at_threshold": found.precision,
        "recall_at_threshold": found.recall,
        "unmatchable": found.unmatchable,
        "false_matches_unmatchable": found.unmatchable_share,
        "false_matches_unmatchable_mean": found.unmatchable_mean,
    }


def _ranking(lists: Lists) -> dict[str, Any]:
    return {
        **asdict(ranked(lists)),
        "roc_auc_hard": roc_auc(lists.scores[lists.same], lists.scores[~lists.same]),
        "pr_auc": average_precision(lists),
        "recall_at_precision_95": recall_at_precision(lists, 0.95),
        "recall_at_precision_99": recall_at_precision(lists, 0.99),
    }


def _plotted(found: Curve) -> F1Curve:
    return F1Curve(found.thresholds.tolist(), found.f1.tolist(), found.precision.tolist(), found.recall.tolist())


def _histogram(same: Doubles, different: Doubles, near: Doubles, top: float) -> Histogram:
    finite = [scores[np.isfinite(scores)] for scores in (same, different, near)]
    lowest = min(0.0, *(float(scores.min(initial=0.0)) for scores in finite))
    edges = np.linspace(np.floor(lowest * 10) / 10, top, BINS + 1)
    counts = [np.histogram(scores, edges)[0].tolist() for scores in finite]
    return Histogram(edges.tolist(), *counts)


def _false_matches(lists: Lists, wrong: NDArray[np.bool_], subjects: Subjects) -> list[Pair]:
    rows = lists.rows()
    pairs = np.flatnonzero(wrong & (subjects.labels[rows] >= 0))
    pairs = pairs[np.argsort(-lists.scores[pairs], kind="stable")]
    return _worst(rows[pairs], lists.others[pairs], lists.scores[pairs], subjects)


def _misses(pairs: TruePairs, bounds: Doubles, subjects: Subjects) -> list[Pair]:
    missed = np.flatnonzero((pairs.scores < bounds[pairs.kinds]) & np.isfinite(pairs.scores))
    missed = missed[np.argsort(pairs.scores[missed], kind="stable")]
    return _worst(pairs.rows[missed], pairs.others[missed], pairs.scores[missed], subjects)


def _worst(rows: Rows, others: Rows, scores: Doubles, subjects: Subjects) -> list[Pair]:
    """Returns the first pairs, each in one direction only."""
    shown: dict[tuple[int, int], Pair] = {}
    for row, other, score in zip(rows.tolist(), others.tolist(), scores.tolist(), strict=True):
        if len(shown) == SHOWN:
            break
        shown.setdefault((min(row, other), max(row, other)), Pair(subjects.ids[row], subjects.ids[other], score))
    return list(shown.values())


def _sample(features: Features, subjects: Subjects, main: int, seed: int) -> Sample | None:
    """Returns whole random groups of two or more, of the listings that have what most have."""
    if features.fusion is None or main == HASH_ONLY:
        return None
    usable = np.flatnonzero((features.flags & main == main) & (subjects.labels >= 0))
    counts = np.bincount(subjects.labels[usable])
    groups = np.random.default_rng(seed).permutation(np.flatnonzero(counts > 1))
    groups = groups[np.cumsum(counts[groups]) <= MAPPED]
    rows = usable[np.isin(subjects.labels[usable], groups)]
    return Sample([subjects.ids[row] for row in rows], subjects.labels[rows], halves(features, rows, main))


def _matches(lists: Lists, taken: NDArray[np.bool_], subjects: Subjects) -> list[list[str]]:
    found = []
    for row in range(len(lists)):
        part = slice(int(lists.starts[row]), int(lists.starts[row + 1]))
        found.append([subjects.ids[row], *(subjects.ids[other] for other in lists.others[part][taken[part]])])
    return found
