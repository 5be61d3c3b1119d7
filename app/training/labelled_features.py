"""Embedded listings with their groups: what thresholds and the pair model are fitted to and measured on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from app.core.decision import Thresholds
from app.core.fusion import Fusion
from app.encoders.base import Encoder
from app.errors import InvalidListings
from app.evaluation.evidence import NOBODY, Table, candidate_pairs, joined, judged_alone, moved_by
from app.evaluation.features import SIGNALS, Features, embed_items
from app.evaluation.galleries import deal
from app.evaluation.geometry import Progress
from app.labelled.listings import Item
from app.labelled.pairs import PairTable
from app.listings import BadRow
from app.training.calibrate import Labelled
from app.training.short_titles import short_titles

SMALLER = (100, 600)  # listings of the smaller galleries


@dataclass(frozen=True, slots=True)
class LabelledFeatures:
    """`n` listings that have a group.

    Attributes:
        features: vectors and hashes.
        titles: clean titles.
        labels: `(n,)` int64 groups, from 0.
        made: so many listings, the last ones, are nobody's: see `app.training.short_titles`.
    """

    features: Features
    titles: Sequence[str | None]
    labels: NDArray[np.int64]
    made: int = 0

    def labelled(self) -> Labelled:
        """Returns what thresholds are fitted to: the listings that have a vector. Raises InvalidListings if none has."""
        kept = np.flatnonzero(self.features.flags)
        if not len(kept):
            raise InvalidListings(
                "no row has a group and a photo or title: name the columns with --group-column and others."
            )
        return Labelled(self.features.vectors[kept], self.features.flags[kept], self.labels[kept])

    def candidate_pairs(self, thresholds: Thresholds, tick: Callable[[int], None]) -> PairEvidence:
        """Returns the candidates of every listing among the others; `tick` takes the number of listings just done."""
        table = candidate_pairs(self.features, self.titles, self.labels, thresholds, tick)
        return PairEvidence(table, self.labels, np.arange(len(self.labels)) >= len(self.labels) - self.made)

    def in_all_galleries(self, thresholds: Thresholds, progress: Progress, more: Distractors | None = None) -> PairEvidence:
        """Returns what the pair model is fitted to: pairs among the listings, in smaller galleries, in one with `more`."""
        with progress("Collecting evidence", len(self.labels)) as tick:
            found = self.candidate_pairs(thresholds, tick)
        with progress("... in smaller galleries", None):
            found = replace(found, smaller=tuple(self.in_smaller_galleries(thresholds)))
        if more is None:
            return found
        with progress("... in the larger gallery", len(self.labels)) as tick:
            return replace(found, larger=(self.in_larger_gallery(more, thresholds, tick),))

    def in_larger_gallery(self, more: Distractors, thresholds: Thresholds, tick: Callable[[int], None]) -> Table:
        """Returns the candidates of every listing again, among the others and more: what a probability is worth there.

        The table names the listings of `more` NOBODY.
        """
        count = len(self.labels)
        labels = np.append(self.labels, np.full(len(more.titles), NOBODY))
        gallery, titles = self.features.and_also(more.features), [*self.titles, *more.titles]
        table = candidate_pairs(gallery, titles, labels, thresholds, tick, queries=count)
        return replace(table, others=np.where(table.others < count, table.others, NOBODY))

    def in_smaller_galleries(self, thresholds: Thresholds, seed: int = 0) -> list[Table]:
        """Returns the candidates of every listing again, among fewer others: what a probability is worth in a small catalog.

        For each of `SMALLER` sizes whole groups are dealt into galleries of about that size; every listing is in one.
        """
        found: list[Table] = []
        for size in SMALLER:
            if 2 * size > len(self.labels):
                continue
            parts = deal(self.labels, size, seed)
            for number in range(int(parts.max()) + 1):
                rows = np.flatnonzero(parts == number)
                titles = [self.titles[row] for row in rows.tolist()]
                table = candidate_pairs(self.features.of(rows), titles, self.labels[rows], thresholds)
                found.append(Table(rows[table.rows], rows[table.others], table.evidence, table.same))
        return found


@dataclass(frozen=True, slots=True)
class Distractors:
    """Listings that fill up a gallery and are nobody's match.

    Attributes:
        features: vectors and hashes.
        titles: clean titles.
    """

    features: Features
    titles: Sequence[str | None]

    def labelled(self) -> Labelled:
        """Returns what thresholds are fitted among; no listing has a group."""
        return Labelled(self.features.vectors, self.features.flags, np.full(len(self.titles), NOBODY))


@dataclass(frozen=True, slots=True)
class PairEvidence:
    """What the pair model is fitted to and measured on: pairs of `n` listings, and the groups of those.

    Attributes:
        table: the pairs.
        labels: `(n,)` int64 groups of the listings.
        made: `(n,)` bool, which listings are nobody's: trees learn from them, and nothing else is fitted to them.
        smaller: pairs of the same listings in smaller galleries, for trees and calibration alone.
        larger: pairs of the same listings in larger galleries, for all but groups.
    """

    table: Table
    labels: NDArray[np.int64]
    made: NDArray[np.bool_]
    smaller: tuple[Table, ...] = ()
    larger: tuple[Table, ...] = ()

    def and_also(self, other: PairEvidence) -> PairEvidence:
        """Returns both; their groups have nothing in common."""
        labels = np.concatenate([self.labels, other.labels + int(self.labels.max(initial=-1)) + 1])
        made = np.concatenate([self.made, other.made])
        smaller, larger = (
            (*mine, *(moved_by(table, len(self.labels)) for table in theirs))
            for mine, theirs in ((self.smaller, other.smaller), (self.larger, other.larger))
        )
        return PairEvidence(joined(self.table, moved_by(other.table, len(self.labels))), labels, made, smaller, larger)


def embed_pairs(
    pairs: PairTable, encoder: Encoder, fusion: Fusion, thresholds: Thresholds, tick: Callable[[int], None]
) -> tuple[PairEvidence, list[BadRow]]:
    """Embeds the sides of labelled pairs and collects the evidence about each pair by itself.

    Returns:
        The pairs of two listings of which both could be read, and the sides that could not.
    """
    items = pairs.listings.items
    features, kept, bad = embed_items(items, SIGNALS, encoder, fusion, tick)
    where = np.full(len(items), -1, np.int64)
    where[kept] = np.arange(len(kept))
    left, right = where[np.asarray(pairs.left, np.int64)], where[np.asarray(pairs.right, np.int64)]
    usable = (left >= 0) & (right >= 0) & (left != right)  # two sides with equal content are one listing
    labels = np.unique([str(items[n].group) for n in kept], return_inverse=True)[1].astype(np.int64)
    titles = [items[n].title for n in kept]
    same = np.asarray(pairs.same, np.bool_)
    table = judged_alone(features, titles, left[usable], right[usable], same[usable], thresholds.all_at(1))
    return PairEvidence(table, labels, np.zeros(len(labels), np.bool_)), bad


def with_short_titles(data: LabelledFeatures, encoder: Encoder, progress: Progress) -> LabelledFeatures:
    """Adds short titles, cut out of those of the listings, as listings of their own; without titles there are none."""
    cut = short_titles(data.titles, data.labels)
    if not cut or data.features.fusion is None:
        return data
    items = [Item(0, one.text, None, encoder.read_title(one.text), None) for one in cut]
    with progress("Embedding short titles", len(items)) as tick:
        features, _, _ = embed_items(items, ("title",), encoder, data.features.fusion, tick)
    labels = np.array([one.group for one in cut], np.int64)
    titles = [*data.titles, *(item.title for item in items)]
    return LabelledFeatures(data.features.and_also(features), titles, np.append(data.labels, labels), len(items))


def embed_distractors(
    items: Sequence[Item], encoder: Encoder, fusion: Fusion, tick: Callable[[int], None]
) -> tuple[Distractors, list[BadRow]]:
    """Embeds listings that only fill up the gallery; returns them, and those that could not be read."""
    features, kept, bad = embed_items(items, SIGNALS, encoder, fusion, tick)
    return Distractors(features, [items[n].title for n in kept]), bad


def embed_labelled(
    items: Sequence[Item], encoder: Encoder, fusion: Fusion, tick: Callable[[int], None]
) -> tuple[LabelledFeatures, list[BadRow]]:
    """Embeds listings; those without a group are left out.

    Returns:
        The listings, and those that could not be read.
    """
    grouped = [item for item in items if item.group is not None]
    features, kept, bad = embed_items(grouped, SIGNALS, encoder, fusion, tick)
    known = [grouped[n] for n in kept]
    labels = np.unique([str(item.group) for item in known], return_inverse=True)[1].astype(np.int64)
    return LabelledFeatures(features, [item.title for item in known], labels), bad
