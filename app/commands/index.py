"""`python -m app index`: a table of listings into the catalog, or the whole catalog into a new model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

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
    show_bad_rows,
)
from app.commands.cores import share_cores
from app.core.product import DEFAULT_CATALOG
from app.settings import Settings


def index(
    file: Annotated[Path | None, typer.Argument(help="CSV, JSON lines, Parquet, or a folder of photos.")] = None,
    catalog: Annotated[str, typer.Option(help="Created if it does not exist.")] = DEFAULT_CATALOG,
    images: Images = None,
    id_column: IdColumn = None,
    title_column: TitleColumn = None,
    image_column: ImageColumn = None,
    group_column: GroupColumn = None,
    phash_column: PhashColumn = None,
    bundle: BundleDir = None,
    reembed: Annotated[bool, typer.Option("--reembed", help="Embed every stored product again, for a new bundle.")] = False,
) -> None:
    """Index a table of listings; run it again to resume. Bad rows are reported and skipped.

    The service must not be running on the same data folder.
    """
    settings = Settings() if bundle is None else Settings(bundle=bundle)
    if reembed == (file is not None):
        raise typer.BadParameter("give either a FILE to index, or --reembed.")
    share_cores()
    if file is None:
        _reembed(settings)
        return
    from app.bootstrap import build_matcher, product_limits
    from app.bulk import index_rows
    from app.listings import count_rows, read_table

    named = columns(id_column, title_column, image_column, group_column, phash_column)
    rows = read_table(file, named, images, product_limits(settings))
    matcher = build_matcher(settings)
    try:
        with progress("Indexing", count_rows(file)) as tick:
            summary = index_rows(matcher, rows, catalog, tick)
    finally:
        matcher.close()
    show_bad_rows(summary.bad)
    done = f"{summary.created} created, {summary.replaced} replaced, {summary.unchanged} unchanged"
    console.print(f"Catalog '{catalog}': {done}, {len(summary.bad)} skipped.")
    if summary.bad and not (summary.created or summary.replaced or summary.unchanged):
        raise typer.Exit(1)


def _reembed(settings: Settings) -> None:
    from app.bootstrap import build_encoder
    from app.bulk import reembed
    from app.catalog.data_folder import DataFolder
    from app.catalog.reembed import Reembedding
    from app.model_store import load_bundle

    bundle = load_bundle(settings.bundle)
    data = DataFolder(settings.data_dir)
    try:
        work = Reembedding(data, bundle.manifest.encoder_fusion(), bundle.fingerprint)
        damaged = work.drop_damaged()
        if damaged:
            console.print(f"[yellow]{damaged} vectors are damaged[/] and are made anew.")
        total = work.count()
        if not total:
            console.print(f"Every product is embedded by {bundle.label} already.")
            return
        with progress("Embedding again", total) as tick:
            failed = reembed(build_encoder(settings, bundle), work, data.photos, tick)
    finally:
        data.close()
    for product, error in failed:
        console.print(f"[yellow]{product.catalog}/{product.id}[/]: {error}")
    console.print(f"{total} products embedded by {bundle.label}, {len(failed)} with problems.")
    if failed:
        raise typer.Exit(1)
