"""Options and output that several commands share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from app.listings import WHOLE_TABLE, BadRow, Columns

console = Console(stderr=True)  # progress, warnings, what was done
results = Console()  # what was asked for
SHOWN_BAD_ROWS = 20

Images = Annotated[
    Path | None, typer.Option("--images", help="Folder of the image column's paths; default: the table's own.")
]
IdColumn = Annotated[str | None, typer.Option(help="Default: id, posting_id or query.")]
TitleColumn = Annotated[str | None, typer.Option(help="Default: title.")]
ImageColumn = Annotated[
    str | None, typer.Option(help="Paths or bytes; several paths joined by |. Default: image or images.")
]
GroupColumn = Annotated[str | None, typer.Option(help="Label that equal products share. Default: group or label_group.")]
PhashColumn = Annotated[
    str | None, typer.Option(help="Perceptual hash of the photo, 16 hexadecimal digits. Default: image_phash.")
]
FamilyColumn = Annotated[
    str | None, typer.Option(help="Label of products that are alike but not equal: kept in one fold. No default.")
]
BundleDir = Annotated[Path | None, typer.Option("--bundle", help="Default: SAMESKU_BUNDLE or model_store/default.")]


def columns(
    id_column: str | None,
    title_column: str | None,
    image_column: str | None,
    group_column: str | None = None,
    phash_column: str | None = None,
    family_column: str | None = None,
) -> Columns:
    """Returns the columns that the options name."""
    return Columns(id_column, title_column, image_column, group_column, phash_column, family_column)


@contextmanager
def progress(what: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """Shows a progress bar; yields a function that takes the number of items just done."""
    bar = Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn(),
        console=console,
    )  # fmt: skip
    with bar:
        task = bar.add_task(what, total=total)
        yield lambda done: bar.update(task, advance=done)


def show_bad_rows(bad: Sequence[BadRow]) -> None:
    """Prints remarks on the table, and the rows that were skipped, and why."""
    for remark in (row for row in bad if row.row == WHOLE_TABLE):
        console.print(f"[yellow]{escape(str(remark.error))}[/]")
    skipped = [row for row in bad if row.row != WHOLE_TABLE]
    if not skipped:
        return
    title = f"{len(skipped):,} row{'s' * (len(skipped) > 1)} skipped"
    table = Table(title=title, title_justify="left", title_style="bold yellow")
    for column in ("row", "id", "reason"):
        table.add_column(column)
    for row in skipped[:SHOWN_BAD_ROWS]:
        table.add_row(str(row.row), escape(row.id or ""), escape(str(row.error)))
    if len(skipped) > SHOWN_BAD_ROWS:
        table.add_row("...", "", f"and {len(skipped) - SHOWN_BAD_ROWS:,} more")
    console.print(table)


def size(size_bytes: int) -> str:
    """Returns a size for people, in MB of a million bytes."""
    return f"{size_bytes / 1e6:,.1f} MB"
