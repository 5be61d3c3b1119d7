"""`python -m app calibrate`: thresholds from labelled listings."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.table import Table

from app.commands.common import (
    GroupColumn,
    IdColumn,
    ImageColumn,
    Images,
    PhashColumn,
    TitleColumn,
    columns,
    console,
    progress,
    show_bad_rows,
)
from app.settings import Settings

if TYPE_CHECKING:
    from app.training.calibrate import Point


def calibrate(
    bundle: Annotated[Path, typer.Option(help="The bundle whose thresholds are fitted; it is replaced in one step.")],
    listings: Annotated[Path, typer.Option(help="Labelled listings to fit to.")],
    report: Annotated[Path | None, typer.Option(help="Other labelled listings, to measure the result on.")] = None,
    images: Images = None,
    id_column: IdColumn = None,
    title_column: TitleColumn = None,
    image_column: ImageColumn = None,
    group_column: GroupColumn = None,
    phash_column: PhashColumn = None,
    criterion: Annotated[
        Literal["decision", "f1"], typer.Option(help="What thresholds are best for: see docs/training.md.")
    ] = "decision",
    strict: Annotated[bool, typer.Option("--strict", help="Stop at the first row that cannot be used.")] = False,
) -> None:
    """Fit a bundle's thresholds. Its vectors stay as they are, so nothing has to be indexed again."""
    from app.bootstrap import build_encoder
    from app.core.decision import Thresholds
    from app.evaluation.features import embed_items
    from app.files import sha256_of
    from app.labelled.listings import read_labelled
    from app.listings import count_rows
    from app.model_store import Manifest, load_bundle, write_bundle
    from app.training import calibrate as fitting

    loaded = load_bundle(bundle)
    manifest = loaded.manifest
    fusion = manifest.encoder_fusion()
    encoder = build_encoder(Settings(), loaded)
    named = columns(id_column, title_column, image_column, group_column, phash_column)

    def embed(file: Path) -> fitting.Labelled:
        with progress(f"Reading {file.name}", count_rows(file)) as tick:
            read = read_labelled(file, named, images, strict=strict, tick=tick)
        with progress(f"Embedding {file.name}", len(read.items)) as tick:
            features, kept, bad = embed_items(read.items, ("image", "title"), encoder, fusion, tick)
        show_bad_rows([*read.problems, *bad])
        return fitting.labelled_from(features, [read.items[n] for n in kept])

    points = fitting.fit_thresholds(embed(listings), fusion, criterion)
    _show("Fitted (scores on the listings they were fitted to)", points)
    before = manifest.decision()
    fitted = fitting.thresholds_of(points)
    thresholds = Thresholds({**before.points, **fitted.points})  # a modality that the listings lack keeps what it had
    metrics = dict(manifest.metrics)
    if report is not None:
        other = embed(report)
        _show("Before, on the other listings", fitting.measure(other, fusion, before))
        measured = fitting.measure(other, fusion, thresholds)
        _show("After, on the other listings", measured)
        metrics["held_out"] = [
            {"modality": p.modality, "gallery": p.gallery, "threshold": p.threshold, "f1": round(p.f1, 4),
             "precision": round(p.precision, 4), "recall": round(p.recall, 4), "decision": round(p.decision, 4)}
            for p in measured
        ]  # fmt: skip
    update = {
        "thresholds": {modality: list(pairs) for modality, pairs in thresholds.points.items()},
        "data": dict(manifest.data) | {"calibration": {"file": listings.name, "sha256": sha256_of(listings)}},
        "metrics": metrics,
    }

    def copied(folder: Path) -> Manifest:
        for name in manifest.files:
            shutil.copyfile(bundle / name, folder / name)
        return manifest.model_copy(update=update)

    write_bundle(bundle, copied)
    console.print(f"Written: new thresholds in {bundle}, fingerprint {loaded.fingerprint} as before.")


def _show(title: str, points: Sequence[Point]) -> None:
    table = Table(title=title, title_justify="left")
    for column in ("query has", "gallery", "threshold", "decision", "F1", "precision", "recall"):
        table.add_column(column, justify="left" if column == "query has" else "right")
    for p in points:
        numbers = [f"{value:.3f}" for value in (p.threshold, p.decision, p.f1, p.precision, p.recall)]
        table.add_row(p.modality, f"{p.gallery:,}", *numbers)
    console.print(table)
