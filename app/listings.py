"""Tables of listings: CSV, JSON lines, Parquet or a folder of photos -> one listing a row.

The same reader serves the command line (files on disk) and the batch calls of the API (a manifest and a zip).
A row that cannot be used becomes a `BadRow` that says why; the rest goes on.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, TextIO, cast

import pyarrow as pa
import pyarrow.parquet as pq

from app.core.product import Scalar, check_attributes
from app.errors import AppError, InvalidInput, InvalidListings

PHOTO_ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".avif", ".gif", ".bmp", ".tif", ".tiff")
PHOTO_SEPARATOR = "|"
PARQUET_ROWS = 512
MAX_CELL_CHARS = 64 * 1024 * 1024  # a photo in base64 is a long cell

OpenPhoto = Callable[[str], bytes]
_Row = Mapping[str, Any] | InvalidListings  # a row, or why its line could not be read


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

    def resolve(self, present: Iterable[str], name: str) -> Columns:
        """Returns the columns that a table has. Raises InvalidListings if one that was named is missing."""
        available = list(present)
        found: dict[str, str | None] = {}
        for role, defaults in self.DEFAULTS.items():
            wanted: str | None = getattr(self, role)
            if wanted is not None and wanted not in available:
                raise InvalidListings(f"{name} has no column '{wanted}' for the {role}, only: {', '.join(available)}.")
            found[role] = wanted or next((column for column in defaults if column in available), None)
        if found["title"] is None and found["image"] is None:
            raise InvalidListings(
                f"{name} has neither a title nor an image column, only: {', '.join(available)}. "
                "Name them with --title-column and --image-column."
            )
        return Columns(**found)

    def named(self) -> set[str]:
        """The columns that have a meaning of their own; all others are attributes."""
        return {c for c in (self.id, self.title, self.image, self.group, self.phash) if c is not None}


@dataclass(frozen=True, slots=True)
class Listing:
    """One row, with its photos loaded.

    Attributes:
        row: its number in the table, the first is 1.
        id: from the id column; the row number as text if there is no such column.
        title: None if the cell is empty.
        images: the photos' bytes.
        attributes: the cells of all other columns that are not empty.
        group: the label that equal products share, if the table has one.
    """

    row: int
    id: str
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


def read_table(path: Path, columns: Columns | None = None, images: Path | None = None) -> Iterator[Listing | BadRow]:
    """Reads a table of listings from disk, lazily.

    Args:
        path: `.csv`, `.jsonl`, `.ndjson` (each also `.gz`), `.parquet`, or a folder of photos, where each photo is
            a product named by its file and each sub-folder a product with all photos in it.
        columns: what the columns mean; Shopee's names and plain ones are found without it.
        images: folder that the image column's paths are relative to; the table's own folder if None.

    Raises:
        InvalidListings: the file is missing, of another kind, or has no usable columns.
    """
    if path.is_dir():
        return _read_folder(path)
    base = images or path.parent
    return listings(_rows(path), columns or Columns(), lambda name: _read_photo_file(base, name), path.name)


def count_rows(path: Path) -> int | None:
    """Returns how many rows a table has where that is cheap to know, None otherwise."""
    if path.is_dir():
        return sum(1 for entry in path.iterdir() if entry.is_dir() or entry.suffix.lower() in PHOTO_ENDINGS)
    if path.suffix == ".parquet":
        return int(pq.ParquetFile(path).metadata.num_rows)
    if path.suffix == ".gz" or not path.is_file():
        return None
    with path.open("rb") as stream:
        lines = sum(1 for line in stream if line.strip())
    return lines - 1 if path.suffix == ".csv" else lines


def _rows(path: Path) -> Iterator[_Row]:
    kind = Path(path.stem).suffix if path.suffix == ".gz" else path.suffix
    if not path.is_file():
        raise InvalidListings(f"{path} does not exist.")
    if kind == ".parquet":
        return _parquet_rows(path)
    if kind not in (".csv", ".jsonl", ".ndjson"):
        raise InvalidListings(f"{path.name} is none of .csv, .jsonl, .ndjson, .parquet or a folder: convert it first.")
    return _text_rows(path, csv_rows if kind == ".csv" else jsonl_rows)


def _text_rows(path: Path, parse: Callable[[TextIO, str], Iterator[_Row]]) -> Iterator[_Row]:
    opener = gzip.open if path.suffix == ".gz" else io.open
    with opener(path, "rt", encoding="utf-8-sig", newline="") as text:
        yield from parse(cast("TextIO", text), path.name)


def _parquet_rows(path: Path) -> Iterator[Mapping[str, Any]]:
    try:
        table = pq.ParquetFile(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise InvalidListings(f"{path.name} is not a Parquet file: {error}") from error
    return (row for batch in table.iter_batches(batch_size=PARQUET_ROWS) for row in batch.to_pylist())


def csv_rows(text: TextIO, name: str) -> Iterator[_Row]:
    """Yields the rows of a CSV file with a header line. Raises InvalidListings if it is no UTF-8 text or has no header."""
    csv.field_size_limit(MAX_CELL_CHARS)
    reader = csv.DictReader(text)
    try:
        if not reader.fieldnames:
            raise InvalidListings(f"{name} is empty: its first line must name the columns.")
        for row in reader:
            if None in row or None in row.values():
                yield InvalidListings(f"{name}, line {reader.line_num}: the row has not as many cells as the header.")
            else:
                yield row
    except UnicodeDecodeError as error:
        raise InvalidListings(f"{name} is not UTF-8 text (byte {error.start}): save it as UTF-8.") from error
    except csv.Error as error:
        raise InvalidListings(f"{name}, line {reader.line_num}: {error}.") from error


def jsonl_rows(text: TextIO, name: str) -> Iterator[_Row]:
    """Yields one JSON object a line; blank lines are left out. Raises InvalidListings if it is no UTF-8 text."""
    try:
        for number, line in enumerate(text, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (json.JSONDecodeError, RecursionError):
                row = None
            yield row if isinstance(row, dict) else InvalidListings(f"{name}, line {number}: this is not a JSON object.")
    except UnicodeDecodeError as error:
        raise InvalidListings(f"{name} is not UTF-8 text (byte {error.start}): save it as UTF-8.") from error


def listings(
    rows: Iterable[Mapping[str, Any] | InvalidListings], columns: Columns, open_photo: OpenPhoto, name: str
) -> Iterator[Listing | BadRow]:
    """Turns rows into listings.

    Args:
        rows: mappings from column to cell, or an error where a line could not be read.
        columns: what they mean; resolved against the first row.
        open_photo: returns the bytes behind a cell of the image column.
        name: of the table, for messages.

    Raises:
        InvalidListings: the table has no usable columns.
    """
    resolved: Columns | None = None
    for number, row in enumerate(rows, start=1):
        if isinstance(row, InvalidListings):
            yield BadRow(number, None, row)
            continue
        if resolved is None:
            resolved = columns.resolve(row, name)
        yield read_row(number, row, resolved, open_photo)


def read_row(number: int, row: Mapping[str, Any], columns: Columns, open_photo: OpenPhoto) -> Listing | BadRow:
    """Turns one row into a listing, its photos loaded. `columns` must be resolved; the rest as in `listings`."""
    try:
        return _listing(number, row, columns, open_photo)
    except AppError as error:
        named = row.get(columns.id) if columns.id else None
        return BadRow(number, None if named is None else str(named), error)


def _listing(number: int, row: Mapping[str, Any], columns: Columns, open_photo: OpenPhoto) -> Listing:
    named = columns.named()
    attributes = {key: value for key, value in row.items() if key not in named and value not in (None, "")}
    title = _text(row, columns.title)
    group = _text(row, columns.group)
    if columns.id is not None and _text(row, columns.id) is None:
        raise InvalidInput(f"row {number} has no {columns.id}: give every row its own.")
    return Listing(
        number,
        _text(row, columns.id) or str(number),
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
        if isinstance(part, dict) and isinstance(part.get("bytes"), bytes):  # how Hugging Face datasets store photos
            yield part["bytes"]
        elif isinstance(part, bytes):
            yield part
        elif isinstance(part, str):
            yield from (open_photo(name.strip()) for name in part.split(PHOTO_SEPARATOR) if name.strip())
        else:
            raise InvalidInput(f"a photo must be a path or bytes, not {type(part).__name__}.")


def _read_photo_file(base: Path, name: str) -> bytes:
    try:
        return (base / name).read_bytes()
    except OSError as error:
        raise InvalidInput(
            f"photo {name} cannot be read ({error.strerror}): looked in {base}; --images names another folder."
        ) from error


def _read_folder(folder: Path) -> Iterator[Listing | BadRow]:
    entries = sorted(e for e in folder.iterdir() if e.is_dir() or e.suffix.lower() in PHOTO_ENDINGS)
    if not entries:
        raise InvalidListings(f"{folder} holds no photos ({', '.join(PHOTO_ENDINGS)}) and no folders with photos.")
    for number, entry in enumerate(entries, start=1):
        photos = sorted(p for p in entry.iterdir() if p.suffix.lower() in PHOTO_ENDINGS) if entry.is_dir() else [entry]
        product_id = entry.name if entry.is_dir() else entry.stem
        try:
            yield Listing(number, product_id, None, tuple(photo.read_bytes() for photo in photos))
        except OSError as error:
            yield BadRow(number, product_id, InvalidInput(f"photo cannot be read: {error.strerror}."))
