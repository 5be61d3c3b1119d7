"""Groups of many listings: candidates, what the pair model thinks of them, and what is the same product.

Each step can be left out, to see what it is worth.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from app.core.answer import Reason
from app.core.decision import Thresholds
from app.core.grouping import SIZE_CAP, Edges, average_linkage, edges_of, with_one_more
from app.core.neighbourhood import HASH_ONLY, Ground
from app.core.pairs import FEATURES
from app.core.product import Floats
from app.evaluation.evidence import Table, candidate_pairs
from app.evaluation.features import Features
from app.evaluation.geometry import Photos, Progress, check, silent
from app.verifying import SURE

Rows = NDArray[np.int64]
Doubles = NDArray[np.float64]
Flags = NDArray[np.bool_]

OVERRULES = 0.7  # a probability that amounts in the titles do not veto: labels and titles err, too
COSINE_RULE = "blended_2"  # what stands for the probability without a pair model
DOUBTFUL_OVER = (-0.15, 0.1)  # without a pair model, scores over the threshold whose pairs are checked by their photos


class Judge(Protocol):
    """What groups need of a pair model."""

    def probability(self, evidence: Floats) -> Doubles:
        """Evidence `(m, len(FEATURES))` -> `(m,)` in [0, 1]."""


@dataclass(frozen=True, slots=True)
class Steps:
    """What is done.

    Attributes:
        expansion: candidates are sought with blended vectors, too, see `app.core.expansion`; worth little.
        vetoes: amounts in the titles that contradict each other keep two listings apart, see `app.core.quantities`.
        geometry: photos of doubtful pairs are laid over each other, where there are photos, see `app.evaluation.geometry`.
        blending: without a pair model, whether scores are blended with those of the neighbours.
        mutual: only pairs where each is a candidate of the other.
        grouping: average linkage; otherwise every listing has its own matches.
        at_least_two: every listing gets its best candidate, if it has no match.
        cap: largest size of a group.
    """

    expansion: bool = False
    vetoes: bool = True
    geometry: bool = True
    blending: bool = True
    mutual: bool = True
    grouping: bool = True
    at_least_two: bool = False
    cap: int = SIZE_CAP


@dataclass(frozen=True, slots=True)
class Grouped:
    """The outcome for `n` listings.

    Attributes:
        labels: `(n,)` int64, for each listing the smallest position in its group; without grouping, its own.
        table: the candidate pairs.
        probability: `(pairs,)` of them, equal in both directions.
        taken: `(pairs,)` bool, which of them are matches.
        checks: what photos say about pairs `(left, right)`, `left < right`, whose photos were laid over each other.
    """

    labels: Rows
    table: Table
    probability: Doubles
    taken: Flags
    checks: Mapping[tuple[int, int], Reason] = field(default_factory=dict)

    def matches(self) -> list[Rows]:
        """Returns the matches of each listing: itself first, then the likeliest, then what is only joined over others."""
        order = np.lexsort((self.table.others, -self.probability, self.table.rows))
        order = order[self.taken[order]]
        ends = np.searchsorted(self.table.rows[order], np.arange(len(self.labels) + 1))
        others = self.table.others[order]
        members = np.argsort(self.labels, kind="stable")
        starts = np.searchsorted(self.labels[members], self.labels)
        stops = np.searchsorted(self.labels[members], self.labels, side="right")
        found = []
        for n in range(len(self.labels)):
            near = others[ends[n] : ends[n + 1]]
            group = members[starts[n] : stops[n]]
            found.append(np.concatenate([[n], near, np.setdiff1d(group, [n, *near])]).astype(np.int64))
        return found


def group_listings(
    features: Features,
    titles: Sequence[str | None],
    thresholds: Thresholds,
    judge: Judge | None,
    bound: float,
    steps: Steps | None = None,
    labels: Rows | None = None,
    photos: Photos | None = None,
    progress: Progress = silent,
) -> Grouped:
    """Finds groups.

    Args:
        features: of `n` listings; sort them by id to get the same groups from a table in any order.
        titles: their clean titles.
        thresholds: of the bundle.
        judge: its pair model; None decides by scores alone.
        bound: probability from which two groups are joined; not used without a pair model.
        steps: what is done.
        labels: `(n,)` true groups, if the table's `same` is to be right.
        photos: of the listings, if there are any.
        progress: see `app.evaluation.geometry.check`; called once for the listings, and once if photos are checked.
    """
    how = steps or Steps()
    true = np.full(len(features), -1, np.int64) if labels is None else labels
    with progress("Judging candidates", len(features)) as tick:
        table = candidate_pairs(features, titles, true, thresholds, tick, expansion=how.expansion)
    edges, reasons = _judged(table, features, thresholds, judge, how, photos, progress)
    bound = 0.5 if judge is None else bound
    where = _positions(table, len(features))
    probability = edges.probability[np.searchsorted(edges.left * len(features) + edges.right, where)]
    if how.mutual:
        edges = edges.kept(edges.mutual)
    if how.grouping:
        groups = average_linkage(edges, len(features), bound, how.cap)
        taken = groups[table.rows] == groups[table.others]
    else:
        groups = np.arange(len(features))
        kept = np.isin(where, edges.left * len(features) + edges.right)
        taken = kept & (probability >= bound)
    if how.at_least_two:
        taken = with_one_more(table.rows, table.others, probability, taken, len(features))
    return Grouped(groups, table, probability, taken, reasons)


def _judged(
    table: Table,
    features: Features,
    thresholds: Thresholds,
    judge: Judge | None,
    steps: Steps,
    photos: Photos | None,
    progress: Progress,
) -> tuple[Edges, Mapping[tuple[int, int], Reason]]:
    """Returns the candidate pairs with their probability, after vetoes and the check of photos, and what that has found."""
    opinion = _by_score(table, features, thresholds, steps) if judge is None else judge.probability(table.evidence)
    vetoed = np.zeros(len(opinion), np.bool_)
    if steps.vetoes:
        vetoed = (table.evidence[:, FEATURES.index("vetoes")] > 0) & (opinion < OVERRULES)
    edges = edges_of(table.rows, table.others, np.where(vetoed, 0.0, opinion))
    if photos is None or not steps.geometry:
        return edges, {}
    closeness, (low, high) = edges.probability, SURE
    if judge is None:
        over = table.evidence[:, FEATURES.index("over")].astype(np.float64)
        closeness, (low, high) = edges_of(table.rows, table.others, over).probability, DOUBTFUL_OVER
    doubtful = (closeness >= low) & (closeness <= high)
    # one photo says nothing about amounts, and what is not mutual is not joined
    n = len(features)
    doubtful &= ~np.isin(edges.left * n + edges.right, _positions(table, n)[vetoed])
    if steps.mutual:
        doubtful &= edges.mutual
    found = check(edges, closeness, doubtful, photos, progress)
    return replace(edges, probability=found.probability), found.reasons


def _positions(table: Table, n: int) -> Rows:
    """Returns a number for every pair that is the same in both directions."""
    return np.minimum(table.rows, table.others) * n + np.maximum(table.rows, table.others)


def _by_score(table: Table, features: Features, thresholds: Thresholds, steps: Steps) -> Doubles:
    """Returns 1 for pairs above the threshold of what they share, 0 for the others."""
    column = COSINE_RULE if steps.blending else "raised"
    score = table.evidence[:, FEATURES.index(column)].astype(np.float64)
    shared = features.flags[table.rows] & features.flags[table.others]
    kinds = np.where(shared == 0, HASH_ONLY, shared)
    if features.fusion is None:
        raise ValueError("groups need a bundle")
    bounds = Ground(features.fusion, thresholds.all_at(len(features)), len(features)).by_kind()
    return (score >= bounds[kinds]).astype(np.float64)
