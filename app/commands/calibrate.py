"""`python -m app calibrate`: thresholds and the pair model, from labelled listings, pairs and feedback."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.markup import escape

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
from app.core.product import DEFAULT_CATALOG
from app.errors import InvalidInput, InvalidListings, PhotoNotFound
from app.settings import Settings

if TYPE_CHECKING:
    from app.core.decision import Thresholds
    from app.core.judging import PairSpec
    from app.encoders.base import Encoder
    from app.labelled.listings import Item
    from app.labelled.pairs import PairTable
    from app.listings import Columns
    from app.model_store import Bundle
    from app.training.labelled_features import Distractors, LabelledFeatures, PairEvidence
    from app.training.pair_model import Fitted
SHOWN_CONTRADICTIONS = 20


def calibrate(
    bundle: Annotated[Path, typer.Option(help="The bundle that is calibrated; it is replaced in one step.")],
    listings: Annotated[
        Path | None, typer.Option(help="Labelled listings to fit to; the towers must not have seen them.")
    ] = None,
    pairs: Annotated[
        list[Path] | None, typer.Option(help="Labelled pairs, for the pair model only. Repeat the option for more.")
    ] = None,
    feedback: Annotated[
        Path | None, typer.Option(help="Data folder of a service that is stopped: what people said there counts, too.")
    ] = None,
    catalog: Annotated[str, typer.Option(help="Whose feedback.")] = DEFAULT_CATALOG,
    accept: Annotated[bool, typer.Option("--accept", help="With --feedback: write what was only shown.")] = False,
    gallery: Annotated[
        Path | None, typer.Option(help="More listings, of other products: what is fitted gets to know a catalog that large.")
    ] = None,
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
    pair_model: Annotated[
        bool, typer.Option("--pair-model/--no-pair-model", help="Fit the pair model too, or leave it as it is.")
    ] = True,
    keep_thresholds: Annotated[
        bool, typer.Option("--keep-thresholds", help="Leave the thresholds as they are, fit the pair model only.")
    ] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Stop at the first row that cannot be used.")] = False,
) -> None:
    """Fit a bundle's thresholds and pair model. Its vectors stay as they are: nothing has to be indexed again."""
    from app.bootstrap import build_encoder
    from app.commands.calibrate_output import show_points
    from app.model_store import load_bundle
    from app.training import calibrate as fitting
    from app.training.labelled_features import with_short_titles

    if listings is None and not pairs and feedback is None:
        raise InvalidInput("there is nothing to fit to: give --listings, --pairs, --feedback or several of them.")
    if gallery is not None and listings is None:
        raise InvalidInput("--gallery goes with --listings: it is among these listings that those are looked for.")
    loaded = load_bundle(bundle)
    reader = _Reader(loaded, build_encoder(Settings(), loaded), strict, images)
    named = columns(id_column, title_column, image_column, group_column, phash_column)
    thresholds = loaded.manifest.decision()
    parts: list[PairEvidence] = []
    if listings is not None:
        items = reader.items(listings, named)
        data = reader.embedded(items, listings.name)
        more = None if gallery is None else reader.distractors(gallery, named, items)
        if not keep_thresholds:
            others = None if more is None else more.labelled()
            points = fitting.fit_thresholds(data.labelled(), loaded.manifest.encoder_fusion(), criterion, more=others)
            show_points("Fitted (scores on the listings they were fitted to)", points)
            thresholds = fitting.joined(thresholds, fitting.thresholds_of(points))
        if pair_model:
            parts.append(with_short_titles(data, reader.encoder, progress).in_all_galleries(thresholds, progress, more))
    if pairs and pair_model:
        parts.append(reader.pairs(_read_pairs(pairs, images, strict), thresholds))
    if feedback is not None and pair_model:
        parts.append(reader.pairs(_read_feedback(feedback, catalog), thresholds))
    after = _Calibration(thresholds, _fit_pairs(parts, loaded) if parts else None)
    metrics = dict(loaded.manifest.metrics)
    if report is not None:
        metrics["held_out"] = _report(reader.embedded(reader.items(report, named), report.name), loaded, after)
    if feedback is not None and not accept:
        console.print(f"[yellow]Nothing is written: look at before and after, then add --accept. {bundle} is as it was.[/]")
        return
    _write(loaded, after, [file for file in (listings, gallery, *(pairs or ())) if file is not None], metrics)
    console.print(f"Written: {bundle} is calibrated, fingerprint {loaded.fingerprint} as before.")


@dataclass(frozen=True, slots=True)
class _Calibration:
    """What is written: thresholds, and the pair model if it was fitted."""

    thresholds: Thresholds
    pairs: Fitted | None


@dataclass(frozen=True, slots=True)
class _Reader:
    """Reads and embeds labelled listings."""

    bundle: Bundle
    encoder: Encoder
    strict: bool
    images: Path | None

    def items(self, file: Path, named: Columns) -> list[Item]:
        from app.labelled.listings import read_labelled
        from app.listings import count_rows

        with progress(f"Reading {file.name}", count_rows(file)) as tick:
            read = read_labelled(file, named, self.images, strict=self.strict, tick=tick)
        show_bad_rows(read.problems)
        return read.items

    def embedded(self, items: Sequence[Item], name: str) -> LabelledFeatures:
        from app.training.labelled_features import embed_labelled

        with progress(f"Embedding {name}", len(items)) as tick:
            found, bad = embed_labelled(items, self.encoder, self.bundle.manifest.encoder_fusion(), tick)
        show_bad_rows(bad)
        return found

    def distractors(self, file: Path, named: Columns, taken: Sequence[Item]) -> Distractors:
        from app.evaluation.subjects import read_distractors
        from app.training.labelled_features import embed_distractors

        items, skipped = read_distractors(file, named, self.images, self.strict, taken)
        with progress(f"Embedding {file.name}", len(items)) as tick:
            found, bad = embed_distractors(items, self.encoder, self.bundle.manifest.encoder_fusion(), tick)
        show_bad_rows([*skipped, *bad])
        return found

    def pairs(self, table: PairTable, thresholds: Thresholds) -> PairEvidence:
        from app.training.labelled_features import embed_pairs

        with progress("Embedding pairs", len(table.listings.items)) as tick:
            found, bad = embed_pairs(table, self.encoder, self.bundle.manifest.encoder_fusion(), thresholds, tick)
        show_bad_rows(bad)
        return found


def _read_pairs(files: Sequence[Path], images: Path | None, strict: bool) -> PairTable:
    from app.labelled.pairs import read_pair_table

    with progress("Reading pairs", None) as tick:
        read = read_pair_table(files, None, images, strict=strict, tick=tick)
    show_bad_rows(read.listings.problems)
    return read


def _read_feedback(folder: Path, catalog: str) -> PairTable:
    """Returns what people agree on; says what they contradict each other in."""
    from contextlib import closing

    from app.catalog.data_folder import DataFolder
    from app.catalog.feedback import LocalFeedback
    from app.core.feedback import contradictions, settled
    from app.labelled.feedback import feedback_pairs

    with closing(DataFolder(folder)) as data:
        statements = LocalFeedback(data.records).statements(catalog)
        found = settled(statements)
        said = list(islice(contradictions(statements), SHOWN_CONTRADICTIONS + 1))
        for one in said[:SHOWN_CONTRADICTIONS]:
            console.print(f"[yellow]contradiction:[/] {escape(str(one))}")
        if len(said) > SHOWN_CONTRADICTIONS:
            console.print("[yellow]... and more: GET /feedback/contradictions lists all of them.[/]")
        console.print(f"Feedback: {len(statements):,} statements, {len(found.verdicts):,} pairs that people agree on.")

        def photo(digest: str) -> bytes | None:
            try:
                return data.photos.get(digest)
            except PhotoNotFound:  # the product is gone, and its photo with it
                return None

        return feedback_pairs(found.verdicts, photo)


def _fit_pairs(parts: Sequence[PairEvidence], loaded: Bundle) -> Fitted | None:
    """Fits the pair model; None, after saying why, where the pairs are too few for one."""
    from functools import reduce

    from app.bootstrap import build_pair_model
    from app.commands.calibrate_output import show_pairs
    from app.evaluation.evidence import some
    from app.training.labelled_features import PairEvidence
    from app.training.pair_model import FITS, fit_pair_model, measure_pairs, real

    given = reduce(PairEvidence.and_also, parts)
    try:
        with progress("Fitting the pair model", FITS) as tick:
            fitted = fit_pair_model(given.table, given.labels, given.smaller, given.larger, given.made, tick=tick)
    except InvalidListings as error:
        console.print(f"[yellow]No new pair model: {error}[/]")
        return None
    shown = {}
    old, kept = build_pair_model(loaded), real(given.table, given.made)
    table = some(given.table, kept)
    if old is not None:
        shown["before"] = measure_pairs(old.probability(table.evidence), table.same, old.spec)
    shown["after"] = measure_pairs(fitted.probability[kept], table.same, fitted.spec)
    show_pairs("Pair model; after: by trees that had not seen the groups that they judge", shown)
    return fitted


def _report(other: LabelledFeatures, loaded: Bundle, after: _Calibration) -> list[dict[str, Any]]:
    """Measures thresholds and pair models, before and after, on other listings; returns the figures of afterwards."""
    from app.bootstrap import build_pair_model
    from app.commands.calibrate_output import rounded, show_pairs, show_points
    from app.pair_model import PairModel
    from app.training import calibrate as fitting
    from app.training.pair_model import measure_pairs

    fusion, before = loaded.manifest.encoder_fusion(), loaded.manifest.decision()
    show_points("Before, on the other listings", fitting.measure(other.labelled(), fusion, before))
    measured = fitting.measure(other.labelled(), fusion, after.thresholds)
    show_points("After, on the other listings", measured)
    figures: list[dict[str, Any]] = [{name: rounded(value) for name, value in asdict(point).items()} for point in measured]
    models = {"before": (build_pair_model(loaded), before)}
    if after.pairs is not None:
        models["after"] = PairModel(after.pairs.spec, after.pairs.texts), after.thresholds
    found = {}
    for name, (model, thresholds) in models.items():
        if model is not None:
            with progress("Collecting evidence", len(other.labels)) as tick:
                table = other.candidate_pairs(thresholds, tick).table
            found[name] = measure_pairs(model.probability(table.evidence), table.same, model.spec)
    if found:
        show_pairs("Pair model, candidate pairs of the other listings", found)
    if "after" in found:
        figures.append({"pair_model": {name: rounded(value) for name, value in asdict(found["after"]).items()}})
    return figures


def _write(loaded: Bundle, after: _Calibration, files: Sequence[Path], metrics: dict[str, Any]) -> None:
    """Replaces the bundle by one that differs in thresholds and pair model only."""
    from app.files import sha256_of
    from app.model_store import Manifest, write_bundle

    old = loaded.manifest
    pairs: PairSpec | None = old.pairs if after.pairs is None else after.pairs.spec
    update = {
        "thresholds": {modality: list(points) for modality, points in after.thresholds.points.items()},
        "pairs": pairs,
        "data": dict(old.data) | {"calibration": [{"file": file.name, "sha256": sha256_of(file)} for file in files]},
        "metrics": metrics,
    }

    def copied(folder: Path) -> Manifest:
        for name in old.files:
            shutil.copyfile(loaded.folder / name, folder / name)
        if after.pairs is not None:
            after.pairs.write(folder)
        return old.model_copy(update=update)

    write_bundle(loaded.folder, copied)
