"""Tables of listings: CSV, JSON lines, Parquet or a folder of photos -> one listing a row.

The same code serves the command line (files on disk) and the batch calls of the API (a manifest and a zip).
A row that cannot be used becomes a `BadRow` that says why; the rest goes on.
"""

from app.listings.rows import BadRow, Columns, Listing, listings, read_row, row_id
from app.listings.tables import count_rows, csv_rows, jsonl_rows, read_table, with_checked_header

__all__ = [
    "BadRow",
    "Columns",
    "Listing",
    "count_rows",
    "csv_rows",
    "jsonl_rows",
    "listings",
    "read_row",
    "read_table",
    "row_id",
    "with_checked_header",
]
