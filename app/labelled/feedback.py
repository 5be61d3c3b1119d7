"""Feedback -> labelled pairs: what people have said about products of a catalog, with the titles and photos of the time."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence

from app.core.feedback import Opinion
from app.core.statements import Side
from app.labelled.folds import connected
from app.labelled.listings import Item, LabelledListings
from app.labelled.pairs import PairTable
from app.listings import PhotoRef


def feedback_pairs(opinions: Sequence[Opinion], photo: Callable[[str], bytes | None]) -> PairTable:
    """Returns opinions as a table of pairs; sides that are said to be the same, directly or over others, are one group.

    Args:
        opinions: that are settled, see `app.core.feedback`.
        photo: SHA-256 -> the photo's bytes, None if it is gone. A side keeps its title then; one without is left out.
    """
    items: list[Item] = []
    numbers: dict[str, int] = {}
    rows: list[tuple[int, int, bool]] = []
    for opinion in opinions:
        ends = [_number(side, photo, items, numbers) for side in (opinion.first, opinion.second)]
        if ends[0] is not None and ends[1] is not None and ends[0] != ends[1]:
            rows.append((ends[0], ends[1], opinion.same))
    together = [row for row in rows if row[2]]
    groups = connected(len(items), [row[0] for row in together], [row[1] for row in together]).tolist()
    grouped = [Item(i.row, i.id, f"feedback-{group}", i.title, i.photo) for i, group in zip(items, groups, strict=True)]
    left, right, same = ([row[n] for row in rows] for n in range(3))
    return PairTable(LabelledListings(grouped, []), left, right, [bool(one) for one in same])


def _number(side: Side, photo: Callable[[str], bytes | None], items: list[Item], numbers: dict[str, int]) -> int | None:
    data = next((found for digest in side.photos if (found := photo(digest)) is not None), None)
    if side.title is None and data is None:
        return None
    digest = None if data is None else hashlib.sha256(data).hexdigest()
    name = json.dumps([side.id, side.title, digest])
    if name not in numbers:
        numbers[name] = len(items)
        items.append(
            Item(len(items) + 1, side.id or side.title or "", None, side.title, None if data is None else PhotoRef(data))
        )
    return numbers[name]
