"""Ranks and records, joined to answers."""

from __future__ import annotations

import math
from collections.abc import Mapping

from app.catalog.ranking import Ranked
from app.catalog.rows import RowSet
from app.core.answer import Answer, Candidate, Match
from app.core.product import Product, Query, agrees


def answer_of(
    query: Query, ranked: Ranked, rows: RowSet, products: Mapping[int, Product], gallery: int, *, exact: bool
) -> Answer:
    """Joins ranks and records; a product that contradicts the filter is dropped whatever the index said.

    Args:
        query: what was asked.
        ranked: what the index said.
        rows: the index rows of what is ranked, in that order.
        products: by key.
        gallery: products in the catalog.
        exact: False if the index may have missed some.
    """
    matches: list[Match] = []
    candidates: list[Candidate] = []
    dropped = 0
    for n, key in enumerate(ranked.keys.tolist()):
        product = products[key]
        if not agrees(product.attributes, query.where):
            dropped += bool(ranked.matching[n])
            continue
        match = Match(product, float(ranked.score[n]), _number(ranked.image[n]), _number(ranked.title[n]))
        if ranked.matching[n] and len(matches) < query.limit:
            matches.append(match)
        if query.context:
            candidates.append(Candidate(match, rows.vectors[n], int(rows.flags[n])))
    return Answer(
        tuple(matches), query.threshold, ranked.total - dropped, gallery, exact, query.partial, bound=query.threshold,
        candidates=tuple(candidates), unseen=ranked.unseen,
    )  # fmt: skip


def _number(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
