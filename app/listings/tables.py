"""Tables of listings on disk or in a request: CSV, JSON lines, Parquet, or a folder of photos."""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import TextIO, cast

import pyarrow as pa
import pyarrow.parquet as pq

from app.core.product import DEFAULT_LIMITS, ProductLimits
from app.errors import InvalidInput, InvalidListings
from app.listings.rows import BadRow, Columns, LazyListing, Listing, PhotoRef, Row, lazy_listings, listings

PHOTO_ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".avif", ".gif", ".bmp", ".tif", ".tiff")
FIXED_HEADER = (".csv", ".parquet")
PARQUET_ROWS = 512
MAX_CELL_CHARS = 64 * 1024 * 1024  # a photo in base64 is a long cell


def read_table(
    path: Path, columns: Columns | None = None, images: Path | None = None, limits: ProductLimits = DEFAULT_LIMITS
) -> Iterator[Listing | BadRow]:
    """Reads a table of listings from disk, lazily.

    Args:
        path: `.csv`, `.jsonl`, `.ndjson` (each also `.gz`), `.parquet`, or a folder of photos, where each photo is
            a product named by its file and each sub-folder a product with all photos in it.
        columns: what the columns mean; Shopee's names and plain ones are found without it.
        images: folder that the image column's paths are relative to; the table's own folder if None.
        limits: what a listing may hold.

    Raises:
        InvalidListings: the file is missing, of another kind, or has no usable columns.
    """
    if path.is_dir():
        return _read_folder(path)
    base, wanted = images or path.parent, columns or Columns()
    rows = _checked_rows(path, wanted, limits=limits)
    return listings(rows, wanted, lambda name: PhotoRef(base / name).read(), limits)


def read_lazily(
    path: Path, columns: Columns | None = None, images: Path | None = None, needs: Collection[str] = ()
) -> Iterator[LazyListing | BadRow]:
    """Reads a table of listings from disk without reading the photo files that it names.

    Args:
        path: as in `read_table`, but no folder.
        columns: as in `read_table`.
        images: as in `read_table`.
        needs: roles that a table with a header must have a column for.

    Raises:
        InvalidListings: the file is missing, of another kind, or has no usable columns.
    """
    wanted = columns or Columns()
    return lazy_listings(_checked_rows(path, wanted, needs), wanted, images or path.parent)


def read_rows(path: Path) -> Iterator[Row]:
    """Yields the rows of a table on disk as they are. Raises InvalidListings if it is missing or of another kind."""
    kind = _kind(path)
    return _parquet_rows(path) if kind == ".parquet" else _text_rows(path, csv_rows if kind == ".csv" else jsonl_rows)


def count_rows(path: Path) -> int | None:
    """Returns how many rows a table has where that is cheap to know, None otherwise."""
    if path.is_dir():
        return sum(1 for entry in path.iterdir() if entry.is_dir() or entry.suffix.lower() in PHOTO_ENDINGS)
    try:
        if path.suffix.lower() == ".parquet":
            return int(pq.ParquetFile(path).metadata.num_rows)
        if path.suffix.lower() == ".gz":
            return None
        with path.open("rb") as stream:
            lines = sum(1 for line in stream if line.strip())
    except (pa.ArrowInvalid, OSError):
        return None  # reading it will say why
    return max(0, lines - 1) if path.suffix.lower() == ".csv" else lines


def _checked_rows(
    path: Path, columns: Columns, needs: Collection[str] = (), limits: ProductLimits = DEFAULT_LIMITS
) -> Iterator[Row]:
    rows = read_rows(path)
    return with_checked_header(rows, columns, path.name, needs, limits) if _kind(path) in FIXED_HEADER else rows


def _kind(path: Path) -> str:
    kind = (Path(path.stem).suffix if path.suffix.lower() == ".gz" else path.suffix).lower()
    if not path.is_file():
        raise InvalidListings(f"{path} does not exist.")
    if kind not in (".csv", ".jsonl", ".ndjson", ".parquet"):
        raise InvalidListings(f"{path.name} is none of .csv, .jsonl, .ndjson, .parquet or a folder: convert it first.")
    return kind


def _text_rows(path: Path, parse: Callable[[TextIO, str], Iterator[Row]]) -> Iterator[Row]:
    opener = gzip.open if path.suffix.lower() == ".gz" else io.open
    try:
        with opener(path, "rt", encoding="utf-8-sig", newline="") as text:
            yield from parse(cast("TextIO", text), path.name)
    except (OSError, EOFError, zlib.error) as error:
        raise InvalidListings(f"{path.name} cannot be read to its end ({error}): it is damaged, copy it again.") from error


def _parquet_rows(path: Path) -> Iterator[Row]:
    try:
        for batch in pq.ParquetFile(path).iter_batches(batch_size=PARQUET_ROWS):
            yield from batch.to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise InvalidListings(f"{path.name} is not a Parquet file, or is damaged: {error}") from error


def csv_rows(text: TextIO, name: str) -> Iterator[Row]:
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


def jsonl_rows(text: TextIO, name: str) -> Iterator[Row]:
    """Yields one JSON object a line; blank lines are left out. Raises InvalidListings if it is no UTF-8 text."""
    try:
        for number, line in enumerate(text, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                row = None
            yield row if isinstance(row, dict) else InvalidListings(f"{name}, line {number}: this is not a JSON object.")
    except UnicodeDecodeError as error:
        raise InvalidListings(f"{name} is not UTF-8 text (byte {error.start}): save it as UTF-8.") from error


def with_checked_header(
    rows: Iterable[Row],
    columns: Columns,
    name: str,
    needs: Collection[str] = (),
    limits: ProductLimits = DEFAULT_LIMITS,
) -> Iterator[Row]:
    """Yields the rows of a table whose rows all have the same columns, after `Columns.check` of those of the first."""
    checked = False
    for row in rows:
        if not checked and not isinstance(row, InvalidListings):
            columns.check(row, name, needs, limits)
            checked = True
        yield row


def _read_folder(folder: Path) -> Iterator[Listing | BadRow]:
    entries = sorted(e for e in folder.iterdir() if e.is_dir() or e.suffix.lower() in PHOTO_ENDINGS)
    if not entries:
        raise InvalidListings(f"{folder} holds no photos ({', '.join(PHOTO_ENDINGS)}) and no folders with photos.")
    for number, entry in enumerate(entries, start=1):
        product_id = entry.name if entry.is_dir() else entry.stem
        try:
            photos = sorted(p for p in entry.iterdir() if p.suffix.lower() in PHOTO_ENDINGS) if entry.is_dir() else [entry]
            yield Listing(number, product_id, None, tuple(photo.read_bytes() for photo in photos))
        except OSError as error:
            yield BadRow(number, product_id, InvalidInput(f"photo cannot be read: {error.strerror}."))
