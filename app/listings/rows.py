"""One row of a table -> one listing: which columns mean what, and where the photos are."""

from __future__ import annotations

from collections.abc import Callable, Collection, Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from app.core import phash
from app.core.product import DEFAULT_LIMITS, ProductLimits, Scalar, check_attributes
from app.errors import AppError, InvalidInput, InvalidListings

PHOTO_SEPARATOR = "|"
WHOLE_TABLE = 0  # the row of a remark on all rows

OpenPhoto = Callable[[str], bytes]
Row = Mapping[str, Any] | InvalidListings  # a row, or why its line could not be read


@dataclass(frozen=True, slots=True)
class Columns:
    """Which columns mean what. Each is a name to insist on, or None for the first default that the table has.

    `image_url` is not insisted on: it is for readers that fetch photos, if the table has it; to others it is an attribute.
    """

    id: str | None = None
    title: str | None = None
    image: str | None = None
    group: str | None = None
    phash: str | None = None
    family: str | None = None
    image_url: str | None = None

    DEFAULTS: ClassVar[dict[str, tuple[str, ...]]] = {
        "id": ("id", "posting_id", "query"),
        "title": ("title",),
        "image": ("image", "images"),
        "group": ("group", "label_group"),
        "phash": ("image_phash",),
        "family": (),  # only where it is named: shops use the word for many things
        "image_url": (),
    }  # fmt: skip

    def check(
        self, present: Iterable[str], name: str, needs: Collection[str] = (), limits: ProductLimits = DEFAULT_LIMITS
    ) -> None:
        """Checks the header of a table.

        Args:
            present: its columns.
            name: what to call the table in messages.
            needs: roles that must have a column, named or by default.
            limits: how many columns are taken.

        Raises:
            InvalidListings: there are too many, or a named column, one that is needed, or both title and image are missing.
        """
        available = list(present)
        if len(available) > limits.table_columns:
            raise InvalidListings(
                f"{name} has {len(available):,} columns, at most {limits.table_columns:,} are taken: leave some out."
            )
        broken = [column for column in available if not column.isprintable()]
        if broken:
            raise InvalidListings(f"{name} has a column name that is no plain text ({broken[0][:80]!a}): rename it.")
        for role in self.DEFAULTS:
            wanted: str | None = getattr(self, role)
            if wanted is not None and wanted not in available and role != "image_url":
                raise InvalidListings(f"{name} has no column '{wanted}' for the {role}, only: {', '.join(available)}.")
        found = self.of(available)
        if found.title is None and found.image is None and found.image_url is None:
            raise InvalidListings(
                f"{name} has neither a title nor an image column, only: {', '.join(available)}. "
                "Name them with --title-column and --image-column."
            )
        for role in needs:
            if getattr(found, role) is None:
                raise InvalidListings(
                    f"{name} has no {role} column, only: {', '.join(available)}. Name it with --{role}-column."
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
        return {column for role in self.DEFAULTS if (column := getattr(self, role)) is not None}


@dataclass(frozen=True, slots=True)
class PhotoRef:
    """A photo that is read when it is needed: bytes that a table holds, or the file that it names."""

    source: bytes | Path = field(repr=False)

    def read(self) -> bytes:
        """Returns the photo's bytes. Raises InvalidInput if the file cannot be read."""
        if isinstance(self.source, bytes):
            return self.source
        try:
            return self.source.read_bytes()
        except (OSError, ValueError) as error:  # ValueError: NUL or lone surrogates in the name
            reason = getattr(error, "strerror", error)
            raise InvalidInput(
                f"photo {str(self.source)!a} cannot be read ({reason}): --images names another folder."
            ) from error


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
        image_urls: where more photos are to be fetched.
    """

    row: int
    id: str | None
    title: str | None
    images: tuple[bytes, ...]
    attributes: Mapping[str, Scalar] = field(default_factory=dict)
    group: str | None = None
    image_urls: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class LazyListing:
    """One row, with its photos named but not read; for tables whose photos do not fit into memory.

    Attributes:
        row, id, title: as in `Listing`.
        photos: where the photos are.
        group: the label that equal products share.
        phash: 64-bit perceptual hash of the first photo.
        family: the label that products share which are alike but not equal, such as colours of one shirt.
    """

    row: int
    id: str | None
    title: str | None
    photos: tuple[PhotoRef, ...]
    group: str | None = None
    phash: int | None = None
    family: str | None = None


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that was skipped: its number, its id as far as it was read, and why. At `WHOLE_TABLE` nothing was skipped."""

    row: int
    id: str | None
    error: AppError


def listings(
    rows: Iterable[Row], columns: Columns, open_photo: OpenPhoto, limits: ProductLimits = DEFAULT_LIMITS
) -> Iterator[Listing | BadRow]:
    """Turns rows into listings.

    Args:
        rows: mappings from column to cell, or an error where a line could not be read.
        columns: what they mean.
        open_photo: returns the bytes behind a cell of the image column.
        limits: what a listing may hold.
    """
    for number, row in enumerate(rows, start=1):
        yield read_row(number, row, columns, open_photo, limits)


def read_row(
    number: int, row: Row, columns: Columns, open_photo: OpenPhoto, limits: ProductLimits = DEFAULT_LIMITS
) -> Listing | BadRow:
    """Turns one row into a listing, its photos loaded; as in `listings`."""
    if isinstance(row, InvalidListings):
        return BadRow(number, None, row)
    try:
        return _listing(number, row, columns.of(row), open_photo, limits)
    except AppError as error:
        return BadRow(number, row_id(row, columns), error)


def lazy_listings(rows: Iterable[Row], columns: Columns, folder: Path) -> Iterator[LazyListing | BadRow]:
    """Turns rows into listings without reading a photo.

    Args:
        rows: as in `listings`.
        columns: what they mean; those without a meaning are left out.
        folder: what the paths in the image column are relative to.
    """
    for number, row in enumerate(rows, start=1):
        if isinstance(row, InvalidListings):
            yield BadRow(number, None, row)
            continue
        try:
            yield _lazy_listing(number, row, columns.of(row), folder)
        except AppError as error:
            yield BadRow(number, row_id(row, columns), error)


def photo_refs(cell: object, folder: Path) -> tuple[PhotoRef, ...]:
    """Returns the photos in a cell of an image column. Raises InvalidInput if it holds neither paths nor bytes."""
    return tuple(PhotoRef(part if isinstance(part, bytes) else folder / part) for part in _photo_parts(cell))


def text_cell(row: Mapping[str, Any], column: str | None) -> str | None:
    """Returns a cell as stripped text, None if it is blank or there is no column. Raises InvalidInput if it is no text."""
    value = row.get(column) if column else None
    if value != value:  # NaN, as pandas writes empty cells: as text it would be a group of its own
        return None
    return (_text(row, column) or "").strip() or None


def row_id(row: Row, columns: Columns) -> str | None:
    """Returns the id that a row names, None if it names none."""
    if isinstance(row, InvalidListings):
        return None
    column = columns.of(row).id
    named = row[column] if column else None
    return None if named in (None, "") else str(named)


def _listing(number: int, row: Mapping[str, Any], columns: Columns, open_photo: OpenPhoto, limits: ProductLimits) -> Listing:
    named = columns.named()
    attributes = {key: value for key, value in row.items() if key not in named and value not in (None, "")}
    title = _text(row, columns.title)
    group = _text(row, columns.group)
    photos = _photo_parts(row.get(columns.image) if columns.image else None)
    return Listing(
        number,
        _text(row, columns.id),
        title,
        tuple(part if isinstance(part, bytes) else open_photo(part) for part in photos),
        check_attributes(attributes, limits),
        group,
        tuple(_names(_text(row, columns.image_url) or "")),
    )


def _lazy_listing(number: int, row: Mapping[str, Any], columns: Columns, folder: Path) -> LazyListing:
    return LazyListing(
        number,
        text_cell(row, columns.id),
        text_cell(row, columns.title),
        photo_refs(row.get(columns.image) if columns.image else None, folder),
        text_cell(row, columns.group),
        _phash(row, columns.phash),
        text_cell(row, columns.family),
    )


def _phash(row: Mapping[str, Any], column: str | None) -> int | None:
    text = text_cell(row, column)
    try:
        return None if text is None else phash.parse(text)
    except InvalidInput as error:
        raise InvalidInput(
            f"{column} must be 16 hexadecimal digits, not {str(text)[:40]!a}: correct it, or leave the cell empty."
        ) from error


def _text(row: Mapping[str, Any], column: str | None) -> str | None:
    value = row.get(column) if column else None
    if value is None or value == "":
        return None
    if isinstance(value, str | int | float):
        return str(value)
    raise InvalidInput(f"column '{column}' must hold text, not {type(value).__name__}.")


def _photo_parts(cell: object) -> Iterator[bytes | str]:
    """Yields what a cell of the image column holds: bytes, or the names of photos."""
    if cell is None or cell == "":
        return
    for part in cell if isinstance(cell, list) else [cell]:
        if isinstance(part, dict):  # how Hugging Face datasets store photos
            part = part.get("bytes") or part.get("path")
        if isinstance(part, bytes):
            yield part
        elif isinstance(part, str):
            yield from _names(part)
        else:
            raise InvalidInput(f"a photo must be a path or bytes, not {type(part).__name__}.")


def _names(text: str) -> Iterator[str]:
    return (name.strip() for name in text.split(PHOTO_SEPARATOR) if name.strip())
