"""One row of a table -> one listing: which columns mean what, and where the photos are."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from app.core.product import Scalar, check_attributes
from app.errors import AppError, InvalidInput, InvalidListings

PHOTO_SEPARATOR = "|"

OpenPhoto = Callable[[str], bytes]
Row = Mapping[str, Any] | InvalidListings  # a row, or why its line could not be read


@dataclass(frozen=True, slots=True)
class Columns:
    """Which columns mean what. Each is a name to insist on, or None for the first default that the table has."""

    id: str | None = None
    title: str | None = None
    image: str | None = None
    group: str | None = None
    phash: str | None = None

    DEFAULTS: ClassVar[dict[str, tuple[str, ...]]] = {
        "id": ("id", "posting_id", "query"),
        "title": ("title",),
        "image": ("image", "images"),
        "group": ("group", "label_group"),
        "phash": ("image_phash",),
    }  # fmt: skip

    def check(self, present: Iterable[str], name: str) -> None:
        """Checks the header of a table. Raises InvalidListings if a named column, or both title and image, are missing."""
        available = list(present)
        broken = [column for column in available if not column.isprintable()]
        if broken:
            raise InvalidListings(f"{name} has a column name that is no plain text ({broken[0]!a}): rename it.")
        for role in self.DEFAULTS:
            wanted: str | None = getattr(self, role)
            if wanted is not None and wanted not in available:
                raise InvalidListings(f"{name} has no column '{wanted}' for the {role}, only: {', '.join(available)}.")
        found = self.of(available)
        if found.title is None and found.image is None:
            raise InvalidListings(
                f"{name} has neither a title nor an image column, only: {', '.join(available)}. "
                "Name them with --title-column and --image-column."
            )

    def of(self, present: Container[str]) -> Columns:
        """Returns the columns that a row has; in JSON lines each row may have others."""
        found: dict[str, str | None] = {}
        for role, defaults in self.DEFAULTS.items():
            wanted: str | None = getattr(self, role)
            found[role] = next((column for column in ((wanted,) if wanted else defaults) if column in present), None)
        return Columns(**found)

    def named(self) -> set[str]:
        """The columns that have a meaning of their own; all others are attributes."""
        return {c for c in (self.id, self.title, self.image, self.group, self.phash) if c is not None}


@dataclass(frozen=True, slots=True)
class Listing:
    """One row, with its photos loaded.

    Attributes:
        row: its number in the table, the first is 1.
        id: None if the cell is empty, or there is no id column.
        title: None if the cell is empty.
        images: the photos' bytes.
        attributes: the cells of all other columns that are not empty.
        group: the label that equal products share, if the table has one.
    """

    row: int
    id: str | None
    title: str | None
    images: tuple[bytes, ...]
    attributes: Mapping[str, Scalar] = field(default_factory=dict)
    group: str | None = None


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that was skipped: its number, its id as far as it was read, and the error that says why."""

    row: int
    id: str | None
    error: AppError


def listings(rows: Iterable[Row], columns: Columns, open_photo: OpenPhoto) -> Iterator[Listing | BadRow]:
    """Turns rows into listings.

    Args:
        rows: mappings from column to cell, or an error where a line could not be read.
        columns: what they mean.
        open_photo: returns the bytes behind a cell of the image column.
    """
    for number, row in enumerate(rows, start=1):
        yield read_row(number, row, columns, open_photo)


def read_row(number: int, row: Row, columns: Columns, open_photo: OpenPhoto) -> Listing | BadRow:
    """Turns one row into a listing, its photos loaded; as in `listings`."""
    if isinstance(row, InvalidListings):
        return BadRow(number, None, row)
    try:
        return _listing(number, row, columns.of(row), open_photo)
    except AppError as error:
        return BadRow(number, row_id(row, columns), error)


def row_id(row: Row, columns: Columns) -> str | None:
    """Returns the id that a row names, None if it names none."""
    if isinstance(row, InvalidListings):
        return None
    column = columns.of(row).id
    named = row[column] if column else None
    return None if named in (None, "") else str(named)


def _listing(number: int, row: Mapping[str, Any], columns: Columns, open_photo: OpenPhoto) -> Listing:
    named = columns.named()
    attributes = {key: value for key, value in row.items() if key not in named and value not in (None, "")}
    title = _text(row, columns.title)
    group = _text(row, columns.group)
    return Listing(
        number,
        _text(row, columns.id),
        title,
        tuple(_photos(row.get(columns.image) if columns.image else None, open_photo)),
        check_attributes(attributes),
        group,
    )


def _text(row: Mapping[str, Any], column: str | None) -> str | None:
    value = row.get(column) if column else None
    if value is None or value == "":
        return None
    if isinstance(value, str | int | float):
        return str(value)
    raise InvalidInput(f"column '{column}' must hold text, not {type(value).__name__}.")


def _photos(cell: object, open_photo: OpenPhoto) -> Iterator[bytes]:
    if cell is None or cell == "":
        return
    for part in cell if isinstance(cell, list) else [cell]:
        if isinstance(part, dict):  # how Hugging Face datasets store photos
            part = part.get("bytes") or part.get("path")
        if isinstance(part, bytes):
            yield part
        elif isinstance(part, str):
            yield from (open_photo(name.strip()) for name in part.split(PHOTO_SEPARATOR) if name.strip())
        else:
            raise InvalidInput(f"a photo must be a path or bytes, not {type(part).__name__}.")
