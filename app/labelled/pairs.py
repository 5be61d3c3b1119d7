"""Labelled pairs -> labelled listings: what is paired as equal, directly or over others, is one group."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from app.errors import InvalidInput, InvalidListings
from app.labelled.checks import Problems
from app.labelled.folds import connected
from app.labelled.listings import Item, LabelledListings
from app.listings import WHOLE_TABLE, BadRow, PhotoRef, photo_refs, read_rows, text_cell

# an RDF literal with its language, as the Web Data Commons corpora write titles: "Sepatu lari"@id
_LITERAL = re.compile(r'"([^"]*)"@[a-z]{2,3}(?:-[a-z0-9]+)*', re.IGNORECASE)
_LABELS = {"1": True, "1.0": True, "true": True, "0": False, "0.0": False, "false": False}


@dataclass(frozen=True, slots=True)
class PairColumns:
    """The columns of a table of pairs. Each is a name to insist on, or None for the attribute's own name if it is there."""

    left_title: str | None = None
    right_title: str | None = None
    label: str | None = None
    left_image: str | None = None
    right_image: str | None = None

    def of(self, present: Sequence[str], name: str, *, labelled: bool = True) -> PairColumns:
        """Returns the columns that a table has.

        Raises:
            InvalidListings: a named column, the label (if `labelled`), or both title and image of a side are missing.
        """
        found: dict[str, str | None] = {}
        for role in (one.name for one in fields(self)):
            wanted: str | None = getattr(self, role)
            if wanted is not None and wanted not in present:
                raise InvalidListings(f"{name} has no column '{wanted}' for the {role}, only: {', '.join(present)}.")
            found[role] = wanted or (role if role in present else None)
        columns = PairColumns(**found)
        lacking = [f"{side}_title or {side}_image" for side, cells in columns.sides() if cells == (None, None)]
        lacking += ["label"] if labelled and columns.label is None else []
        if lacking:
            needed = "left_title, right_title and label" if labelled else "left_title and right_title"
            raise InvalidListings(
                f"{name} has no column {' and no column '.join(lacking)}, only: {', '.join(present)}. "
                f"A table of pairs needs {needed}: rename its columns."
            )
        return columns

    def sides(self) -> tuple[tuple[str, tuple[str | None, str | None]], ...]:
        """Returns for both sides their name and their title and image columns."""
        return ("left", (self.left_title, self.left_image)), ("right", (self.right_title, self.right_image))


@dataclass(frozen=True, slots=True)
class Sides:
    """Two products of one row, as the table has them; titles without the tags of RDF literals."""

    left_title: str | None
    right_title: str | None
    left_photo: PhotoRef | None = None
    right_photo: PhotoRef | None = None


def read_sides(file: Path, images: Path) -> Iterator[Sides | InvalidInput]:
    """Reads pairs that need no label, lazily.

    Args:
        file: a table with left_title, right_title, left_image and right_image; one of the two for each side is enough.
        images: folder of its photos.

    Yields:
        Each row, or why it cannot be read.

    Raises:
        InvalidListings: the file cannot be read, or lacks a column.
    """
    columns: PairColumns | None = None
    for row in read_rows(file):
        if isinstance(row, InvalidListings):
            yield row
            continue
        columns = columns or PairColumns().of(list(row), file.name, labelled=False)
        try:
            cells = [
                (without_tags(text_cell(row, title)), photo_refs(row.get(image) if image else None, images))
                for _, (title, image) in columns.sides()
            ]
        except InvalidInput as error:
            yield error
            continue
        (left, left_photos), (right, right_photos) = cells
        yield Sides(left, right, next(iter(left_photos), None), next(iter(right_photos), None))


@dataclass(frozen=True, slots=True)
class _Pair:
    """Two sides, by number, and whether they are the same product."""

    row: int
    left: int
    right: int
    same: bool


@dataclass(slots=True)
class _Distinct:
    """The distinct sides of all pairs: what has the same title and photo is one listing."""

    items: list[Item] = field(default_factory=list)
    numbers: dict[str, int] = field(default_factory=dict)

    def number(self, item: Item) -> int:
        """Returns the number of the listing with this content; `item` itself is kept if it is the first."""
        if item.id not in self.numbers:
            self.numbers[item.id] = len(self.items)
            self.items.append(item)
        return self.numbers[item.id]


def read_pairs(
    files: Path | Sequence[Path],
    columns: PairColumns | None = None,
    images: Path | None = None,
    *,
    strict: bool,
    tick: Callable[[int], None] = lambda _: None,
) -> LabelledListings:
    """Reads labelled pairs as listings with groups.

    Every distinct side is one listing. Pairs labelled 1 are joined to groups, also over others and over several files;
    a side that no such pair names is a group of its own. Ids and groups follow from the content, not from the order.

    Args:
        files: tables in CSV (also `.gz`) or Parquet, whose pairs belong together.
        columns: what their columns mean; left_title, right_title and label (1 or 0) are found without it.
        images: folder that the image columns' paths are relative to; the table's own folder if None.
        strict: stop at the first problem.
        tick: called with the number of pairs just read.

    Raises:
        InvalidListings: a file cannot be read or lacks a column, or no pair is labelled 1; if `strict`, also for every
            problem that would have been reported, a pair labelled 0 within a group included.
    """
    return read_pair_table(files, columns, images, strict=strict, tick=tick).listings


@dataclass(frozen=True, slots=True)
class PairTable:
    """Labelled pairs as they stand in a table.

    Attributes:
        listings: every distinct side, see `read_pairs`.
        left, right: of each pair, the positions of its sides among the listings.
        same: whether it is labelled 1.
    """

    listings: LabelledListings
    left: Sequence[int]
    right: Sequence[int]
    same: Sequence[bool]


def read_pair_table(
    files: Path | Sequence[Path],
    columns: PairColumns | None = None,
    images: Path | None = None,
    *,
    strict: bool,
    tick: Callable[[int], None] = lambda _: None,
) -> PairTable:
    """Reads labelled pairs as pairs, with their sides as listings; otherwise as `read_pairs`."""
    paths = [files] if isinstance(files, Path) else list(files)
    sides, pairs, reported = _Distinct(), list[_Pair](), list[BadRow]()
    for path in paths:
        problems = Problems(path.name, strict)
        for pair in _pairs(path, columns or PairColumns(), images or path.parent, sides, problems):
            tick(1)
            if pair is not None:
                pairs.append(pair)
        reported += problems.rows()
    whole = Problems(", ".join(path.name for path in paths), strict)
    if not any(pair.same for pair in pairs):
        first = f" The first problem: {reported[0].error}" if reported else ""
        raise InvalidListings(f"{whole.file} has no usable pair labelled 1: without one there are no groups.{first}")
    items = _grouped(sides.items, pairs, whole)
    listings = LabelledListings(items, [*whole.rows(), *reported])
    ends = [pair.left for pair in pairs], [pair.right for pair in pairs]
    return PairTable(listings, *ends, [pair.same for pair in pairs])


def _pairs(file: Path, columns: PairColumns, folder: Path, sides: _Distinct, problems: Problems) -> Iterator[_Pair | None]:
    """Yields one pair a row, None for one that was skipped."""
    found: PairColumns | None = None
    for number, row in enumerate(read_rows(file), start=1):
        if isinstance(row, InvalidListings):
            problems.add(number, None, row)
            yield None
            continue
        found = found or columns.of(list(row), file.name)
        yield _pair(number, row, found, folder, sides, problems)


def _pair(
    number: int, row: Mapping[str, Any], columns: PairColumns, folder: Path, sides: _Distinct, problems: Problems
) -> _Pair | None:
    try:
        same = _is_same(row, columns.label)
        cells = [
            (side, without_tags(text_cell(row, title)), photo_refs(row.get(image) if image else None, folder))
            for side, (title, image) in columns.sides()
        ]
    except InvalidInput as error:
        problems.add(number, None, error)
        return None
    items: list[Item] = []
    for side, title, photos in cells:
        item = _side(number, side, title, photos, problems)
        if item is None:
            return None
        items.append(item)
    left, right = items
    return _Pair(number, sides.number(left), sides.number(right), same)


def without_tags(text: str | None) -> str | None:
    """Returns a title that is made of RDF literals as its words alone; any other comes back as it is."""
    if text is None or not _LITERAL.search(text):
        return text
    return " ".join(_LITERAL.sub(r" \1 ", text).replace('"Null"', " ").split()) or None


def _is_same(row: Mapping[str, Any], column: str | None) -> bool:
    text = text_cell(row, column) or ""
    if text.lower() not in _LABELS:
        raise InvalidInput(f"{column} must be 1 (the same product) or 0, not {text[:40]!a}: correct it.")
    return _LABELS[text.lower()]


def _side(number: int, side: str, text: str | None, photos: Sequence[PhotoRef], problems: Problems) -> Item | None:
    """Returns one side of a pair, with the first of its photos; None, after noting why, if nothing of it can be used."""
    if text is None and not photos:
        problems.add(
            number, None, f"the {side} side has neither a title nor a photo: fill one of the two, or delete the row."
        )
        return None
    title = problems.title(number, None, text)
    digest = problems.photo(number, None, photos[0]) if photos else None
    if title is None and digest is None:
        return None
    content = hashlib.sha256(json.dumps([title, digest]).encode()).hexdigest()[:16]
    return Item(number, content, None, title, photos[0] if digest else None, digest=digest)


def _grouped(items: Sequence[Item], pairs: Sequence[_Pair], problems: Problems) -> list[Item]:
    same = [pair for pair in pairs if pair.same]
    labels = connected(len(items), [pair.left for pair in same], [pair.right for pair in same])
    wrong = [pair for pair in pairs if not pair.same and labels[pair.left] == labels[pair.right]]
    if wrong:
        problems.add(
            WHOLE_TABLE,
            None,
            f"{len(wrong):,} pairs are labelled 0, but pairs labelled 1 put both sides into one group; the first is row "
            f"{wrong[0].row}. They count as the same product: correct the labels.",
        )
    smallest: dict[int, str] = {}
    for label, item in zip(labels.tolist(), items, strict=True):
        smallest[label] = min(smallest.get(label, item.id), item.id)
    return [replace(item, group=f"pairs-{smallest[label]}") for label, item in zip(labels.tolist(), items, strict=True)]
