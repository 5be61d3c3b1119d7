"""`python -m app group`: which listings of a table, or products of a catalog, are the same?"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.table import Table

from app.commands.common import (
    BundleDir,
    GroupColumn,
    IdColumn,
    ImageColumn,
    Images,
    PhashColumn,
    TitleColumn,
    columns,
    console,
    progress,
    results,
    show_bad_rows,
)
from app.errors import InvalidInput
from app.listings import BadRow, Columns

if TYPE_CHECKING:
    from app.evaluation.groups import Grouped
    from app.labelled.listings import Item

STEPS = ("pair-model", "vetoes", "blending", "mutual", "grouping")


def group(
    out: Annotated[Path, typer.Option(help="CSV to write.")],
    listings: Annotated[Path, typer.Option(help="The listings: CSV, JSON lines or Parquet.")],
    bundle: BundleDir = None,
    signals: Annotated[
        str | None, typer.Option(help="Some of title,image,phash. Default: what the bundle and the table have.")
    ] = None,
    fold: Annotated[str | None, typer.Option(help="K/N: only fold K of N, as in training.")] = None,
    min2: Annotated[
        bool, typer.Option("--min2", help="Every listing has a match: give each at least its best candidate.")
    ] = False,
    form: Annotated[
        Literal["matches", "groups"],
        typer.Option("--format", help="matches: posting_id,matches, as Kaggle wants it; groups: one row per listing."),
    ] = "matches",
    without: Annotated[
        list[str] | None, typer.Option(help=f"Leave a step out: {', '.join(STEPS)}. Repeat the option.")
    ] = None,
    cap: Annotated[int, typer.Option(min=2, help="Largest size of a group.")] = 100,
    bound: Annotated[
        float | None, typer.Option(min=0.01, max=1, help="Mean probability that joins groups; default: the bundle's own.")
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Stop at the first row that cannot be used.")] = False,
    images: Images = None,
    id_column: IdColumn = None,
    title_column: TitleColumn = None,
    image_column: ImageColumn = None,
    group_column: GroupColumn = None,
    phash_column: PhashColumn = None,
) -> None:
    """Find groups of listings that are the same product. Where the table has groups, they are measured, not used."""
    from app.commands.model import choose_model
    from app.evaluation.features import embed_items
    from app.evaluation.groups import Steps, group_listings
    from app.evaluation.subjects import subjects_of

    skipped = set(without or ())
    if skipped - set(STEPS):
        raise InvalidInput(f"--without takes {', '.join(STEPS)}, not '{min(skipped - set(STEPS))}'.")
    named = columns(id_column, title_column, image_column, group_column, phash_column)
    everyone, bad = _read(listings, named, images, strict, fold)
    model = choose_model(bundle, signals, everyone)
    if model.thresholds is None:
        raise InvalidInput("hashes alone make no groups: add title or image to --signals.")
    with progress("Embedding", len(everyone)) as tick:
        features, kept, unread = embed_items(everyone, model.signals, model.encoder, model.fusion, tick)
    show_bad_rows([*bad, *unread])
    items = [everyone[n] for n in kept]
    labels = subjects_of(everyone, [], kept).labels
    if model.pairs is None and "pair-model" not in skipped:
        console.print("[yellow]The bundle has no pair model: scores alone decide. 'python -m app calibrate' makes one.[/]")
    judge = None if "pair-model" in skipped else model.pairs
    steps = Steps(
        vetoes="vetoes" not in skipped, blending="blending" not in skipped, mutual="mutual" not in skipped,
        grouping="grouping" not in skipped, at_least_two=min2, cap=cap,
    )  # fmt: skip
    joined = bound or (0.5 if model.pairs is None else model.pairs.spec.group)
    titles = [item.title if "title" in model.signals else None for item in items]
    with progress("Judging candidates", len(items)) as tick:
        found = group_listings(features, titles, model.thresholds, judge, joined, steps, labels, tick)
    _write(out, _matches(found, items) if form == "matches" else _groups(found, items))
    _show(found, labels, steps.grouping)


def _read(
    file: Path, named: Columns, images: Path | None, strict: bool, fold: str | None
) -> tuple[list[Item], list[BadRow]]:
    """Returns the listings by id, so that groups do not depend on the order of the rows, and the rows that were skipped."""
    from app.evaluation.subjects import split
    from app.labelled.folds import parse_fold
    from app.labelled.listings import read_labelled
    from app.listings import count_rows

    part = None if fold is None else parse_fold(fold)
    with progress(f"Reading {file.name}", count_rows(file)) as tick:
        read = read_labelled(file, named, images, strict=strict, needs_group=False, may_lack_groups=True, tick=tick)
    return sorted(split(read.items, part, rest=False)[0], key=lambda item: item.id), read.problems


def _matches(found: Grouped, items: Sequence[Item]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["posting_id", "matches"])
    for item, rows in zip(items, found.matches(), strict=True):
        writer.writerow([item.id, " ".join(items[n].id for n in rows)])
    return text.getvalue()


def _groups(found: Grouped, items: Sequence[Item]) -> str:
    """Writes the id of the group's first listing, its size, and how sure each listing belongs to the others."""
    import numpy as np

    n = len(items)
    sizes = np.bincount(found.labels, minlength=n)
    inside = found.labels[found.table.rows] == found.labels[found.table.others]
    sums = np.bincount(found.table.rows[inside], found.probability[inside], minlength=n)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["id", "group", "size", "probability"])
    for row, item in enumerate(items):
        size = int(sizes[found.labels[row]])
        sure = "" if size == 1 else f"{sums[row] / (size - 1):.4f}"
        writer.writerow([item.id, items[found.labels[row]].id, size, sure])
    return text.getvalue()


def _write(out: Path, text: str) -> None:
    from app.files import write_file

    out.parent.mkdir(parents=True, exist_ok=True)
    write_file(out, text.encode())
    console.print(f"Written: {out}")


def _show(found: Grouped, labels: object, grouped: bool) -> None:
    import numpy as np

    from app.core.group_metrics import group_metrics
    from app.core.ranking import f1_of_matches

    true = np.asarray(labels)
    sizes = np.bincount(np.bincount(found.labels)[np.unique(found.labels)])
    table = Table("", "", title="Groups", title_justify="left", show_header=False)
    table.add_row("listings", f"{len(found.labels):,}")
    if grouped:
        table.add_row("groups", f"{int(sizes.sum()):,}")
        table.add_row("of them with two or more", f"{int(sizes[2:].sum()):,}")
        table.add_row("largest", f"{len(sizes) - 1:,}")
    known = true >= 0
    if known.all():
        f1 = f1_of_matches(found.table.rows[found.taken], found.table.others[found.taken], true)
        table.add_row("F1 of matches", f"{f1:.4f}")
        if grouped:
            metrics = group_metrics(found.labels, true)
            table.add_row("B-cubed F1", f"{metrics.bcubed_f1:.4f}")
            table.add_row("B-cubed precision", f"{metrics.bcubed_precision:.4f}")
            table.add_row("B-cubed recall", f"{metrics.bcubed_recall:.4f}")
            table.add_row("pairwise precision", f"{metrics.pair_precision:.4f}")
            table.add_row("pairwise recall", f"{metrics.pair_recall:.4f}")
    results.print(table)
