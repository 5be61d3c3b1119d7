"""Labelled listings: a table with groups -> what training, calibration and evaluation read.

Photos stay on disk where the table names files. What cannot be used is reported with its row and the remedy, or stops
the reading at once if it is strict. Photos are checked by their headers here; they are decoded later.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from app.errors import InvalidListings
from app.labelled.checks import Problems
from app.listings import WHOLE_TABLE, BadRow, Columns, LazyListing, PhotoRef, read_lazily


@dataclass(frozen=True, slots=True)
class Item:
    """One photo of a labelled listing with the listing's title, or a listing without a photo.

    Attributes:
        row: number of the listing's row in its table, the first is 1.
        id: of the listing; `row 7` where the table has none. Several photos of one listing share it.
        group: the label that equal products share; None in a gallery that has listings without one.
        title: clean text.
        photo: where the photo is. Its header was checked, its pixels were not.
        phash: 64-bit perceptual hash of the photo, if the table has it.
        digest: SHA-256 of the photo's bytes in hexadecimal.
        family: the label that products share which are alike but not equal.
    """

    row: int
    id: str
    group: str | None
    title: str | None
    photo: PhotoRef | None
    phash: int | None = None
    digest: str | None = None
    family: str | None = None


@dataclass(frozen=True, slots=True)
class LabelledListings:
    """What a table gave, and what was skipped or repaired; row 0 stands for the table as a whole."""

    items: list[Item]
    problems: list[BadRow]


def read_labelled(
    file: Path,
    columns: Columns | None = None,
    images: Path | None = None,
    *,
    strict: bool,
    needs_group: bool = True,
    may_lack_groups: bool = False,
    tick: Callable[[int], None] = lambda _: None,
) -> LabelledListings:
    """Reads a table of labelled listings.

    Any row may lack its photo or its title. One that lacks both or repeats an id is skipped; of a row with a bad photo
    or a bad title the rest is kept. If no photo of the table can be found, the titles are used alone.

    Args:
        file: `.csv`, `.jsonl`, `.ndjson` (each also `.gz`) or `.parquet`.
        columns: what the columns mean; `family` must be named to be used, the others have defaults.
        images: folder that the image column's paths are relative to; the table's own folder if None.
        strict: stop at the first problem.
        needs_group: skip rows without a group, and remark on groups of one listing; otherwise rows without a group are
            kept, as a part of the gallery.
        may_lack_groups: with `needs_group=False`, a table without any group, or without a column for it, is fine.
        tick: called with the number of rows just read.

    Raises:
        InvalidListings: the file cannot be read, lacks a column, or no row with a group can be used; if `strict`,
            also for every problem that would have been reported.
    """
    if file.is_dir():
        raise InvalidListings(f"{file} is a folder: labelled listings are a CSV, JSON lines or Parquet file with groups.")
    problems = Problems(file.name, strict)
    items: list[Item] = []
    seen: set[str] = set()
    labelled: bool | None = None  # None: not one row could be read
    for row in read_lazily(file, columns, images, needs=() if may_lack_groups else ("group",)):
        tick(1)
        if isinstance(row, BadRow):
            problems.add(row.row, row.id, row.error)
            continue
        labelled = bool(labelled) or row.group is not None
        reason = _reason_to_skip(row, seen, needs_group)
        if reason:
            problems.add(row.row, row.id, reason)
            continue
        found = list(_items(row, problems))
        if found and row.id is not None:
            seen.add(row.id)
        items += found
    if not (may_lack_groups and items):
        _check_usable(items, labelled, problems)
    if needs_group:
        _remark_on_single(items, problems)
    return LabelledListings(items, problems.rows())


def fingerprint(items: Iterable[Item]) -> dict[str, int | str]:
    """Describes data for a bundle's manifest.

    Returns:
        `listings`, `groups`, `groups_of_two_or_more` (photos or listings), `with_title` and `with_photo` (listings), and
        `sha256` of all ids, groups, titles and photos. Their order does not matter; but where a table has no ids, row
        numbers stand for them.
    """
    known = list(items)
    sizes = Counter(item.group for item in known if item.group is not None)
    lines = sorted(json.dumps([item.id, item.group, item.title, item.digest]) for item in known)
    return {
        "listings": _count(known),
        "groups": len(sizes),
        "groups_of_two_or_more": sum(size > 1 for size in sizes.values()),
        "with_title": _count([item for item in known if item.title is not None]),
        "with_photo": _count([item for item in known if item.photo is not None]),
        "sha256": hashlib.sha256("\n".join(lines).encode()).hexdigest(),
    }


def _count(items: Sequence[Item]) -> int:
    """Counts listings: several photos of one are one; of several tables, rows of one number are not."""
    return len({(item.row, item.id, item.group) for item in items})


def _reason_to_skip(row: LazyListing, seen: set[str], needs_group: bool) -> str | None:
    if needs_group and row.group is None:
        return "the row has no group: fill the cell, or name the column with --group-column."
    if row.id in seen:
        return f"id {row.id!a} stands in an earlier row: give every listing its own id."
    if row.title is None and not row.photos:
        return "the row has neither a title nor a photo: fill one of the two, or delete the row."
    return None


def _items(row: LazyListing, problems: Problems) -> Iterator[Item]:
    row_id = row.id or f"row {row.row}"
    title = problems.title(row.row, row.id, row.title)
    usable = False
    for number, photo in enumerate(row.photos):
        digest = problems.photo(row.row, row.id, photo)
        if digest is not None:
            usable = True
            phash = None if number else row.phash  # a row has one hash: that of its first photo
            yield Item(row.row, row_id, row.group, title, photo, phash, digest, row.family)
    if not usable and title is not None:
        yield Item(row.row, row_id, row.group, title, None, row.phash, None, row.family)


def _check_usable(items: Sequence[Item], labelled: bool | None, problems: Problems) -> None:
    if any(item.group is not None for item in items):
        return
    if labelled is None and not len(problems):
        raise InvalidListings(f"{problems.file} has no rows: it needs one for each listing.")
    if labelled is False:
        raise InvalidListings(
            f"{problems.file} has no group in any row: fill its group column, or name another with --group-column."
        )
    raise InvalidListings(f"{problems.file} has no row with a group that can be used. {problems.rows()[0].error}")


def _remark_on_single(items: Sequence[Item], problems: Problems) -> None:
    sizes = Counter(item.group for item in items)
    single = [item for item in items if sizes[item.group] == 1]
    if single:
        first = single[0]
        problems.add(
            WHOLE_TABLE,
            None,
            f"{len(single):,} of {len(sizes):,} groups have one listing only, the first is {str(first.group)[:40]!a} in row "
            f"{first.row}. They are kept, but show no two listings that are the same: check their labels, or add listings.",
        )
