"""What a search must answer, in plain Python: every pair is scored, then sorted. Shares no code with the catalog.

A stored row is `[sqrt(w) image, sqrt(1-w) title]` in float32, so the oracle rounds to float32 once and is exact after.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from app.core.answer import Answer
from app.core.fusion import Fusion
from app.core.product import Embedding, Floats, Query, Scalar

Half = tuple[float, ...] | None
Row = tuple[Half, Half]
Line = tuple[str, float, float | None, float | None]


@dataclass
class Entry:
    """A product as the oracle keeps it; `place` is when its id was first indexed."""

    place: int
    rows: list[Row]
    attributes: Mapping[str, Scalar]


@dataclass
class Oracle:
    fusion: Fusion
    catalogs: dict[str, dict[str, Entry]] = field(default_factory=dict)
    placed: int = 0

    def put(self, catalog: str, product_id: str, embedding: Embedding, attributes: Mapping[str, Scalar]) -> None:
        entries = self.catalogs.setdefault(catalog, {})
        self.placed += 1
        place = entries[product_id].place if product_id in entries else self.placed
        entries[product_id] = Entry(place, self._rows(embedding), dict(attributes))

    def delete(self, catalog: str, product_id: str) -> None:
        del self.catalogs[catalog][product_id]

    def lines(self, catalog: str, query: Query) -> list[Line]:
        """Every match of a query, best first: id, score, image score, title score."""
        found = []
        for product_id, entry in self.catalogs[catalog].items():
            if product_id == query.exclude or not _agrees(entry.attributes, query.where):
                continue
            pairs = [self._score(q, row) for q in self._rows(query.embedding) for row in entry.rows]
            scored = [pair for pair in pairs if pair is not None]
            if scored and (best := max(scored, key=lambda pair: pair[0]))[0] >= query.threshold:
                found.append((-best[0], entry.place, (product_id, *best)))
        return [line for _, _, line in sorted(found, key=lambda one: one[:2])]

    def check(self, catalog: str, query: Query, answer: Answer) -> None:
        """Asserts that an answer is the right one, to the last field."""
        expected = self.lines(catalog, query)
        shown = [(m.product.id, m.score, m.image_score, m.title_score) for m in answer.matches]
        assert shown == expected[: query.limit]
        assert answer.total == len(expected)
        assert answer.truncated == (len(expected) > query.limit)
        assert answer.threshold == query.threshold
        assert answer.gallery == len(self.catalogs[catalog])
        assert answer.exact

    def _rows(self, embedding: Embedding) -> list[Row]:
        title = None if embedding.title is None else _scaled(embedding.title, 1 - self.fusion.weight)
        images: Sequence[Half] = [_scaled(image, self.fusion.weight) for image in embedding.images] or [None]
        return [(image, title) for image in images]

    def _score(self, one: Row, other: Row) -> tuple[float, float | None, float | None] | None:
        image_part, title_part = _dot(one[0], other[0]), _dot(one[1], other[1])
        image = None if image_part is None else _tidy(image_part / self.fusion.weight)
        title = None if title_part is None else _tidy(title_part / (1 - self.fusion.weight))
        if image_part is not None and title_part is not None:
            return _tidy(image_part + title_part), image, title
        score = title if image is None else image
        return None if score is None else (score, image, title)


def _scaled(half: Floats, share: float) -> tuple[float, ...]:
    return tuple(float(np.float32(math.sqrt(share) * float(value))) for value in half)


def _dot(one: Half, other: Half) -> float | None:
    if one is None or other is None:
        return None
    return math.fsum(a * b for a, b in zip(one, other, strict=True))


def _tidy(value: float) -> float:
    return round(min(1.0, max(-1.0, value)), 6) + 0.0


def _agrees(attributes: Mapping[str, Scalar], where: Mapping[str, tuple[Scalar, ...]]) -> bool:
    """Numbers equal numbers (1 and 1.0), but never text or true."""

    def kind(value: Scalar) -> str:
        return "truth" if isinstance(value, bool) else "text" if isinstance(value, str) else "number"

    return all(
        name in attributes and any(kind(v) == kind(attributes[name]) and v == attributes[name] for v in accepted)
        for name, accepted in where.items()
    )
