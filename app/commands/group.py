"""`python -m app group`: which listings of a table, or products of a catalog, are the same?"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

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
from app.errors import InvalidInput
from app.listings import Columns
from app.settings import Settings

if TYPE_CHECKING:
    from app.commands.group_output import Subjects
    from app.core.decision import Thresholds
    from app.evaluation.groups import Steps
    from app.labelled.listings import Item
    from app.pair_model import PairModel

STEPS = ("pair-model", "vetoes", "geometry", "blending", "mutual", "grouping")
MORE = ("expansion",)


def group(
    out: Annotated[Path, typer.Option(help="CSV to write.")],
    listings: Annotated[Path | None, typer.Option(help="The listings: CSV, JSON lines or Parquet.")] = None,
    catalog: Annotated[
        str | None, typer.Option(help="Instead of a table: the products of this catalog. The service must be stopped.")
    ] = None,
    bundle: BundleDir = None,
    signals: Annotated[
        str | None, typer.Option(help="Some of title,image,phash. Default: what the bundle and the table have.")
    ] = None,
    fold: Annotated[str | None, typer.Option(help="K/N: only fold K of N, as in training.")] = None,
    rest_as_gallery: Annotated[
        bool, typer.Option("--rest-as-gallery", help="With --fold: the other folds fill up the gallery.")
    ] = False,
    min2: Annotated[
        bool, typer.Option("--min2", help="Every listing has a match: give each at least its best candidate.")
    ] = False,
    form: Annotated[
        Literal["matches", "groups"],
        typer.Option("--format", help="matches: posting_id,matches, as Kaggle wants it; groups: with reasons."),
    ] = "matches",
    without: Annotated[
        list[str] | None, typer.Option(help=f"Leave a step out: {', '.join(STEPS)}. Repeat the option.")
    ] = None,
    more: Annotated[
        list[str] | None, typer.Option("--with", help=f"Add a step that is off by default: {', '.join(MORE)}.")
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
    from app.commands.group_output import groups_csv, matches_csv, show_groups
    from app.evaluation.groups import group_listings
    from app.files import write_file

    if (listings is None) == (catalog is None):
        raise InvalidInput("give either --listings or --catalog: that is what is grouped.")
    if rest_as_gallery and fold is None:
        raise typer.BadParameter("--rest-as-gallery goes with --fold.")
    steps = _steps(set(without or ()), set(more or ()), min2, cap)
    with ExitStack() as stack:  # photos of a catalog are read until groups are found
        if listings is not None:
            named = columns(id_column, title_column, image_column, group_column, phash_column)
            who, model = _from_table(_Source(listings, named, images, strict, fold, rest_as_gallery), bundle, signals)
        else:
            who, model = _from_catalog(catalog or "", bundle, stack)
        if model.pairs is None and "pair-model" not in (without or ()):
            console.print(
                "[yellow]The bundle has no pair model: scores alone decide. 'python -m app calibrate' makes one.[/]"
            )
        judge = None if "pair-model" in (without or ()) else model.pairs
        joined = bound or (0.5 if model.pairs is None else model.pairs.spec.group)
        known = (who.features, who.titles, model.thresholds)
        found = group_listings(*known, judge, joined, steps, who.labels, who.photos, progress)
    bounds = model.thresholds.all_at(len(who.ids))
    out.parent.mkdir(parents=True, exist_ok=True)
    write_file(out, (matches_csv(found, who) if form == "matches" else groups_csv(found, who, bounds)).encode())
    console.print(f"Written: {out}")
    show_groups(found, who, grouped=steps.grouping)


@dataclass(frozen=True, slots=True)
class _Model:
    """What judges: thresholds and, if the bundle has one, the pair model."""

    thresholds: Thresholds
    pairs: PairModel | None


@dataclass(frozen=True, slots=True)
class _Source:
    """The table that is read, and how."""

    file: Path
    columns: Columns
    images: Path | None
    strict: bool
    fold: str | None
    rest: bool


def _steps(skipped: set[str], added: set[str], min2: bool, cap: int) -> Steps:
    from app.evaluation.groups import Steps

    for option, given, known in (("--without", skipped, STEPS), ("--with", added, MORE)):
        if given - set(known):
            raise InvalidInput(f"{option} takes {', '.join(known)}, not '{min(given - set(known))}'.")
    done = {step.replace("-", "_"): step not in skipped for step in STEPS if step != "pair-model"}
    return Steps(**done, expansion="expansion" in added, at_least_two=min2, cap=cap)


def _from_table(source: _Source, bundle: Path | None, signals: str | None) -> tuple[Subjects, _Model]:
    """Reads and embeds the listings, sorted by id, so that groups do not depend on the order of the rows."""
    import numpy as np

    from app.commands.group_output import Subjects
    from app.commands.model import choose_model
    from app.core.fusion import HAS_IMAGE
    from app.evaluation.features import LIMITS, embed_items
    from app.evaluation.geometry import Photos
    from app.evaluation.subjects import subjects_of

    items, asking = _read(source)
    model = choose_model(bundle, signals, items)
    if model.thresholds is None:
        raise InvalidInput("hashes alone make no groups: add title or image to --signals.")
    with progress("Embedding", len(items)) as tick:
        features, kept, unread = embed_items(items, model.signals, model.encoder, model.fusion, tick)
    show_bad_rows(unread)
    known = [items[n] for n in kept]
    titles = [item.title if "title" in model.signals else None for item in known]
    asked = np.array([item.id in asking for item in known], np.bool_)
    ids = [item.id for item in known]
    there = np.array([item.photo is not None for item in known], np.bool_)
    photos = Photos(there & (features.flags & HAS_IMAGE > 0), lambda row: _bytes_of(known[row]), LIMITS)
    labels = subjects_of(items, [], kept).labels
    return Subjects(ids, titles, features, labels, asked, photos), _Model(model.thresholds, model.pairs)


def _bytes_of(item: Item) -> bytes:
    return b"" if item.photo is None else item.photo.read()


def _read(source: _Source) -> tuple[Sequence[Item], set[str]]:
    """Returns the listings, and the ids of those that ask."""
    from app.evaluation.subjects import split
    from app.labelled.folds import parse_fold
    from app.labelled.listings import read_labelled
    from app.listings import count_rows

    part = None if source.fold is None else parse_fold(source.fold)
    with progress(f"Reading {source.file.name}", count_rows(source.file)) as tick:
        read = read_labelled(
            source.file,
            source.columns,
            source.images,
            strict=source.strict,
            needs_group=False,
            may_lack_groups=True,
            tick=tick,
        )
    show_bad_rows(read.problems)
    asking, others = split(read.items, part, source.rest)
    return sorted([*asking, *others], key=lambda item: item.id), {item.id for item in asking}


def _from_catalog(name: str, bundle: Path | None, stack: ExitStack) -> tuple[Subjects, _Model]:
    """Takes the stored vectors of a catalog, which stays open until the stack is closed."""
    import numpy as np

    from app.bootstrap import build_pair_model
    from app.catalog.data_folder import DataFolder
    from app.catalog.local import LocalCatalog
    from app.catalog.rows import IndexOptions
    from app.commands.group_output import Subjects
    from app.core.fusion import HAS_IMAGE
    from app.evaluation.features import LIMITS
    from app.evaluation.geometry import Photos
    from app.evaluation.stored import stored_listings
    from app.model_store import load_bundle

    settings = Settings() if bundle is None else Settings(bundle=bundle)
    loaded = load_bundle(settings.bundle)
    fusion = loaded.manifest.encoder_fusion()
    data = DataFolder(settings.data_dir)
    try:
        store = LocalCatalog(data, fusion, loaded.fingerprint, IndexOptions(settings.index_precision, settings.index_search))
    except BaseException:
        data.close()
        raise
    stack.enter_context(closing(store))
    with progress(f"Reading catalog {name}", store.size(name)) as tick:
        found = stored_listings(store, name, fusion, tick)
    if found.skipped:
        console.print(f"[yellow]{len(found.skipped):,} products could not be embedded, the first is {found.skipped[0]}.[/]")
    n = len(found.products)
    ids, titles = [product.id for product in found.products], [product.title for product in found.products]
    there = np.array([bool(product.photos) for product in found.products], np.bool_)
    photos = Photos(there & (found.features.flags & HAS_IMAGE > 0), lambda row: store.photo(name, ids[row], 0)[0], LIMITS)
    who = Subjects(ids, titles, found.features, np.full(n, -1, np.int64), np.ones(n, np.bool_), photos)
    return who, _Model(loaded.manifest.decision(), build_pair_model(loaded))
