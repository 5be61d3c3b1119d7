"""Who is evaluated: the listings of a table or of one fold of it, and the distractors that fill up the gallery."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from app.errors import InvalidListings
from app.labelled.folds import fold_of
from app.labelled.listings import Item, read_labelled
from app.listings import BadRow, Columns


@dataclass(frozen=True, slots=True)
class Subjects:
    """Whom features belong to: listings that ask first, then rows that are only in the gallery.

    Attributes:
        ids: `n` names.
        labels: `(n,)` int64 groups of the listings, from 0; -1 for none and for rows that are only in the gallery.
        listings: how many ask.
    """

    ids: Sequence[str]
    labels: NDArray[np.int64]
    listings: int


def split(items: Sequence[Item], fold: tuple[int, int] | None, rest: bool) -> tuple[list[Item], list[Item]]:
    """Chooses who asks.

    Args:
        items: all listings; of several photos of one the first counts.
        fold: `(k, n)` to keep only fold k of n, see `app.labelled.folds.fold_of`.
        rest: the other folds become distractors; otherwise they are left out.

    Returns:
        The listings that ask, and the distractors.

    Raises:
        InvalidListings: the fold is empty.
    """
    chosen, folds = fold or (0, 1)
    asks = {item.id for item, number in zip(items, _folds(items, folds), strict=True) if number == chosen}
    first = _first_photos(items)
    listings = [item for item in first if item.id in asks]
    others = [item for item in first if item.id not in asks]
    if not listings:
        raise InvalidListings("the fold holds no listing: choose fewer folds, or another one.")
    return listings, others if rest else []


def _folds(items: Sequence[Item], folds: int) -> NDArray[np.int64]:
    """Deals listings into folds; those with a group as training does, which does not see those that may join groups."""
    numbers = fold_of(items, folds)
    labelled = [position for position, item in enumerate(items) if item.group is not None]
    numbers[labelled] = fold_of([items[position] for position in labelled], folds)
    return numbers


def read_distractors(
    file: Path, columns: Columns, images: Path | None, strict: bool, taken: Sequence[Item]
) -> tuple[list[Item], list[BadRow]]:
    """Reads rows that only fill up the gallery: they need no group, and are nobody's true match.

    Args:
        file: a table as of `read_labelled`.
        columns: what its columns mean; that of the group is not looked for.
        images: folder of its photos.
        strict: stop at the first row that cannot be used.
        taken: listings whose ids are skipped.

    Returns:
        The distractors, and the rows that were skipped.

    Raises:
        InvalidListings: the table cannot be read; if `strict`, the first row that cannot be used.
    """
    named = Columns(columns.id, columns.title, columns.image, None, columns.phash)
    read = read_labelled(file, named, images, strict=strict, needs_group=False, may_lack_groups=True)
    seen = {item.id for item in taken}
    found: list[Item] = []
    bad = list(read.problems)
    for item in _first_photos(read.items):
        if item.id == f"row {item.row}":
            found.append(replace(item, id=f"{file.name} row {item.row}"))  # the listings may have a row of that number
        elif item.id in seen:
            error = InvalidListings(f"{file.name}, row {item.row}: id {item.id!a} is already in the gallery.")
            if strict:
                raise error
            bad.append(BadRow(item.row, item.id, error))
        else:
            found.append(item)
    return found, bad


def _first_photos(items: Sequence[Item]) -> list[Item]:
    """Returns one item of each listing."""
    return list({item.id: item for item in reversed(items)}.values())[::-1]


def subjects_of(listings: Sequence[Item], distractors: Sequence[Item], kept: NDArray[np.int64]) -> Subjects:
    """Returns the subjects of features.

    Args:
        listings: who asks.
        distractors: who does not.
        kept: positions in `[*listings, *distractors]`, rising, of those that have features.
    """
    everyone = [*listings, *distractors]
    asking = [listings[position].group for position in kept if position < len(listings)]
    numbers = {group: number for number, group in enumerate(sorted({group for group in asking if group is not None}))}
    labels = np.full(len(kept), -1, np.int64)
    labels[: len(asking)] = [-1 if group is None else numbers[group] for group in asking]
    return Subjects([everyone[position].id for position in kept], labels, len(asking))
