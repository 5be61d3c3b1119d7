"""`python -m app evaluate`: how good a bundle is on labelled listings."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from app.commands.common import (
    BundleDir,
    FamilyColumn,
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
from app.listings import BadRow, Columns

if TYPE_CHECKING:
    from app.evaluation.results import Evaluation
    from app.labelled.listings import Item


def evaluate(
    listings: Annotated[Path, typer.Option(help="Labelled listings: each with a group is a query, all are the gallery.")],
    bundle: BundleDir = None,
    signals: Annotated[
        str | None, typer.Option(help="Some of title,image,phash. Default: what the bundle and the table have.")
    ] = None,
    gallery: Annotated[Path | None, typer.Option(help="More rows for the gallery, that nobody is to match.")] = None,
    fold: Annotated[str | None, typer.Option(help="K/N: only fold K of N, as in training.")] = None,
    rest_as_gallery: Annotated[
        bool, typer.Option("--rest-as-gallery", help="With --fold: the other folds fill up the gallery.")
    ] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write all numbers, curves and worst pairs here.")] = None,
    submission: Annotated[Path | None, typer.Option(help="Write posting_id,matches here, as Kaggle wants it.")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Stop at the first row that cannot be used.")] = False,
    images: Images = None,
    id_column: IdColumn = None,
    title_column: TitleColumn = None,
    image_column: ImageColumn = None,
    group_column: GroupColumn = None,
    phash_column: PhashColumn = None,
    family_column: FamilyColumn = None,
) -> None:
    """Measure a bundle on labelled listings: F1 as in the competition, rankings, pairs, and what larger galleries cost."""
    from app.commands.model import choose_model
    from app.errors import InvalidListings
    from app.evaluation import evaluate as measuring
    from app.evaluation.features import embed_items
    from app.evaluation.subjects import subjects_of
    from app.labelled.listings import fingerprint

    if rest_as_gallery and fold is None:
        raise typer.BadParameter("--rest-as-gallery goes with --fold.")
    named = columns(id_column, title_column, image_column, group_column, phash_column, family_column)
    asking, others, bad = _read(_Tables(listings, gallery, named, images, strict), fold, rest_as_gallery)
    everyone = [*asking, *others]
    model = choose_model(bundle, signals, everyone)
    with progress("Embedding", len(everyone)) as tick:
        features, kept, unread = embed_items(everyone, model.signals, model.encoder, model.fusion, tick)
    if strict and unread:
        raise InvalidListings(f"row {unread[0].row}, id {unread[0].id}: {unread[0].error}")
    show_bad_rows([*bad, *unread])
    data: dict[str, Any] = {"listings": {"file": listings.name, "fold": fold, **fingerprint(asking)}, "gallery": None}
    if others:
        data["gallery"] = {"file": gallery.name if gallery else None, "rest": rest_as_gallery, **fingerprint(others)}
    subjects = subjects_of(asking, others, kept)
    with progress("Searching", subjects.listings) as tick:
        about = measuring.About(model.label, data, model.signals)
        found = measuring.evaluate(features, subjects, model.thresholds, about, tick)
    _show(found)
    if json_file is not None:
        _write(json_file, json.dumps(found.to_json(), indent=1, allow_nan=False) + "\n")
    if submission is not None:
        _write(submission, _submission(found.matches))


@dataclass(frozen=True, slots=True)
class _Tables:
    """What is read, and how."""

    listings: Path
    gallery: Path | None
    columns: Columns
    images: Path | None
    strict: bool


def _read(tables: _Tables, fold: str | None, rest: bool) -> tuple[list[Item], list[Item], list[BadRow]]:
    """Returns the listings that ask, the distractors, and the rows that were skipped."""
    from app.evaluation.subjects import read_distractors, split
    from app.labelled.folds import parse_fold
    from app.labelled.listings import read_labelled
    from app.listings import count_rows

    part = None if fold is None else parse_fold(fold)
    file = tables.listings
    with progress(f"Reading {file.name}", count_rows(file)) as tick:
        read = read_labelled(file, tables.columns, tables.images, strict=tables.strict, needs_group=False, tick=tick)
    asking, others = split(read.items, part, rest)
    if tables.gallery is None:
        return asking, others, read.problems
    taken = [*asking, *others]
    more, skipped = read_distractors(tables.gallery, tables.columns, tables.images, tables.strict, taken)
    return asking, [*others, *more], [*read.problems, *skipped]


def _show(found: Evaluation) -> None:
    sizes = f"{found.queries:,} queries in {found.groups:,} groups, gallery {found.gallery:,}"
    results.print(escape(f"{found.bundle or 'no bundle'}, {' + '.join(found.signals)}: {sizes}"), soft_wrap=True)
    table = Table(title="Decisions", title_justify="left")
    for column in ("", "threshold", "F1", "precision", "recall"):
        table.add_column(column, justify="right" if column else "left")
    at = (found.threshold, found.f1_at_threshold, found.precision_at_threshold, found.recall_at_threshold)
    table.add_row(f"the threshold for {found.modality}", *map(_number, at))
    best = found.f1_curve.threshold.index(found.best_threshold)
    there = (found.best_threshold, found.f1_best, found.f1_curve.precision[best], found.f1_curve.recall[best])
    table.add_row("best on this data: optimistic", *map(_number, there))
    results.print(table)
    rates = Table("rate", "", title="Other rates", title_justify="left")
    for name, value in _rates(found):
        rates.add_row(name, _number(value))
    results.print(rates)
    sized = Table(title="The same queries in larger galleries", title_justify="left")
    for column in ("gallery", "threshold", "F1", "best threshold", "best F1", "recall@1"):
        sized.add_column(column, justify="right")
    for p in found.f1_by_gallery:
        values = (p.threshold, p.f1_at_threshold, p.best_threshold, p.f1_best, p.recall_at_1)
        sized.add_row(f"{p.gallery:,}", *map(_number, values))
    results.print(sized)
    if not found.exact:
        console.print("[yellow]The threshold is so low that not all pairs above it fit into memory: F1 is not exact.[/]")


def _rates(found: Evaluation) -> list[tuple[str, float]]:
    return [
        ("recall@1", found.recall_at_1),
        ("recall@20", found.recall_at_20),
        ("recall@20, the query itself counted", found.recall_at_20_self),
        ("mAP@20", found.map_at_20),
        ("mAP@20, the query itself counted", found.map_at_20_self),
        ("mAP@R", found.map_at_r),
        ("ROC AUC", found.roc_auc),
        ("ROC AUC among candidates", found.roc_auc_hard),
        ("PR AUC", found.pr_auc),
        ("recall at precision .95", found.recall_at_precision_95),
        ("recall at precision .99", found.recall_at_precision_99),
        (f"false match for one of the {found.unmatchable:,} queries without a match", found.false_matches_unmatchable),
    ]


def _number(value: float) -> str:
    return f"{value:.3f}" if value == value else "-"


def _submission(matches: Sequence[Sequence[str]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["posting_id", "matches"])
    writer.writerows([found[0], " ".join(found)] for found in matches)
    return text.getvalue()


def _write(file: Path, text: str) -> None:
    from app.files import write_file

    file.parent.mkdir(parents=True, exist_ok=True)
    write_file(file, text.encode())
    console.print(f"Written: {file}")
