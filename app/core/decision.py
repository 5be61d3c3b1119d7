"""When is a score high enough? Thresholds that know the size of the gallery."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from app.errors import InvalidInput

MODALITIES = ("fused", "image", "title")
HIGHEST = 0.95  # to which a threshold rises with the gallery: beyond it not even copies would match


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Cosine thresholds fitted per modality of the query and per gallery size.

    A larger gallery holds more look-alikes, so the best threshold rises with its size: points are stored as fitted and
    interpolated in log(size). Beyond the largest one it goes on rising as it did while the gallery last grew by a factor
    of e (measured in docs/experiments.md); below the smallest one that point counts.

    Attributes:
        points: modality (`fused`, `image`, `title`: what the *query* has) -> ((gallery size, threshold), ...),
            sizes strictly rising.
    """

    points: Mapping[str, Sequence[tuple[int, float]]]

    def __post_init__(self) -> None:
        for modality, points in self.points.items():
            if modality not in MODALITIES:
                raise ValueError(f"unknown modality {modality!r}, expected one of {', '.join(MODALITIES)}")
            sizes = [size for size, _ in points]
            if not points or sizes != sorted(set(sizes)) or sizes[0] < 1:
                raise ValueError(f"{modality}: gallery sizes must be at least 1 and strictly rising, got {sizes}")
            if not all(-1 <= threshold <= 1 for _, threshold in points):
                raise ValueError(f"{modality}: thresholds are cosines in [-1, 1]")

    def all_at(self, gallery: int) -> dict[str, float]:
        """Returns the thresholds of every modality for a gallery of that many products."""
        return {modality: self.at(modality, gallery) for modality in self.points}

    def at(self, modality: str, gallery: int) -> float:
        """Returns the threshold for a query of that modality in a gallery of that many products.

        Raises:
            InvalidInput: the bundle has no threshold for that modality (it has no such tower).
        """
        points = self.points.get(modality)
        if points is None:
            raise InvalidInput(f"the model has no threshold for {modality} queries: send what it was built for.")
        largest, last = points[-1]
        if gallery <= largest:
            return _between(points, max(1, gallery))
        rise = max(0.0, last - _between(points, largest / math.e))  # by a factor of e; less where all points lie closer
        return round(max(last, min(HIGHEST, last + rise * math.log(gallery / largest))), 6)


def _between(points: Sequence[tuple[int, float]], size: float) -> float:
    """Returns the threshold for a size up to the largest point's."""
    if size <= points[0][0]:
        return points[0][1]
    for (low, at_low), (high, at_high) in pairwise(points):
        if size <= high:
            share = (math.log(size) - math.log(low)) / (math.log(high) - math.log(low))
            return round(at_low + share * (at_high - at_low), 6)
    return points[-1][1]
