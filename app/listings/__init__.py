"""Tables of listings: CSV, JSON lines, Parquet or a folder of photos -> one listing a row.

The same code serves the command line (files on disk) and the batch calls of the API (a manifest and a zip).
A row that cannot be used becomes a `BadRow` that says why; the rest goes on.
"""

from app.listings.rows import (
    WHOLE_TABLE,
    BadRow,
    Columns,
    LazyListing,
    Listing,
    PhotoRef,
    Row,
    listings,
    photo_refs,
    read_row,
    row_id,
    text_cell,
)
from app.listings.tables import (
    count_rows,
    csv_rows,
    jsonl_rows,
    read_lazily,
    read_rows,
    read_table,
    with_checked_header,
)

__all__ = [
    "WHOLE_TABLE",
    "BadRow",
    "Columns",
    "LazyListing",
    "Listing",
    "PhotoRef",
    "Row",
    "count_rows",
    "csv_rows",
    "jsonl_rows",
    "listings",
    "photo_refs",
    "read_lazily",
    "read_row",
    "read_rows",
    "read_table",
    "row_id",
    "text_cell",
    "with_checked_header",
]
