"""Embedded listings with their groups: what thresholds and the pair model are fitted to and measured on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from app.core.decision import Thresholds
from app.core.fusion import Fusion
from app.encoders.multimodal import Encoder
from app.errors import InvalidListings
from app.evaluation.evidence import Table, candidate_pairs
from app.evaluation.features import SIGNALS, Features, embed_items
from app.labelled.listings import Item
from app.listings import BadRow
from app.training.calibrate import Labelled


@dataclass(frozen=True, slots=True)
class LabelledFeatures:
    """`n` listings that have a group.

    Attributes:
        features: vectors and hashes.
        titles: clean titles.
        labels: `(n,)` int64 groups, from 0.
    """

    features: Features
    titles: Sequence[str | None]
    labels: NDArray[np.int64]

    def labelled(self) -> Labelled:
        """Returns what thresholds are fitted to: the listings that have a vector. Raises InvalidListings if none has."""
        kept = np.flatnonzero(self.features.flags)
        if not len(kept):
            raise InvalidListings(
                "no row has a group and a photo or title: name the columns with --group-column and others."
            )
        return Labelled(self.features.vectors[kept], self.features.flags[kept], self.labels[kept])

    def candidate_pairs(self, thresholds: Thresholds, tick: Callable[[int], None]) -> Table:
        """Returns the candidates of every listing among the others; `tick` takes the number of listings just done."""
        return candidate_pairs(self.features, self.titles, self.labels, thresholds, tick)


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
