"""What is answered: products that match a query, with scores, probabilities and reasons."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from app.core.product import Floats, Product


@dataclass(frozen=True, slots=True)
class Reason:
    """Why two products are thought to be the same, or not: a stable `code`, and a sentence for people."""

    code: str
    text: str


@dataclass(frozen=True, slots=True)
class Match:
    """A product that is the same, by the rule that applied.

    Attributes:
        product: from the catalog.
        score, image_score, title_score: cosines in [-1, 1]; None where a side lacks the modality.
        probability: that it is the same product; None if the bundle has no pair model.
        decision: `match`, `review` or `no-match`, None likewise.
        reasons: what speaks for it and against it.
    """

    product: Product
    score: float
    image_score: float | None
    title_score: float | None
    probability: float | None = None
    decision: str | None = None
    reasons: tuple[Reason, ...] = ()


@dataclass(frozen=True, slots=True)
class Candidate:
    """A product near a query, with its best photo's row of the index: `vector` (dim,) float32 and `flags`."""

    match: Match
    vector: Floats
    flags: int


@dataclass(frozen=True, slots=True)
class Answer:
    """The matches of one query, best first, and how complete they are.

    Attributes:
        matches: at most `limit` of them.
        threshold: the one that applied.
        partial: thresholds of products that share less with the query, see `Query`.
        total: products at or above the threshold, shown or not.
        gallery: products in the catalog, before filters.
        exact: False if some may have been missed: by an approximate index, or by a rule that looks at the best candidates
            only.
        rule: what made the matches: `threshold`, `min_probability` or `target_precision`.
        bound: the value that applied: a cosine for `threshold`, else a probability.
        candidates: the best ones and all matches, best first, for those who judge them further.
        unseen: no product besides the candidates scores more than this; -inf if no other shares anything with the query.
    """

    matches: tuple[Match, ...]
    threshold: float
    total: int
    gallery: int
    exact: bool = True
    partial: Mapping[str, float] = field(default_factory=dict)
    rule: str = "threshold"
    bound: float | None = None
    candidates: tuple[Candidate, ...] = ()
    unseen: float = -math.inf

    @property
    def truncated(self) -> bool:
        """True if more products match than are shown."""
        return self.total > len(self.matches)
