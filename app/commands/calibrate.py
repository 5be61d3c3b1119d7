"""`python -m app calibrate`: thresholds and the pair model, from labelled listings."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

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
    from app.core.decision import Thresholds
    from app.core.judging import PairSpec
    from app.encoders.multimodal import Encoder
    from app.model_store import Bundle
    from app.training.calibrate import Point
    from app.training.labelled_features import LabelledFeatures
    from app.training.pair_model import Fitted, PairMetrics


def calibrate(
    bundle: Annotated[Path, typer.Option(help="The bundle that is calibrated; it is replaced in one step.")],
    listings: Annotated[Path, typer.Option(help="Labelled listings to fit to; the towers must not have seen them.")],
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
    strict: Annotated[bool, typer.Option("--strict", help="Stop at the first row that cannot be used.")] = False,
) -> None:
    """Fit a bundle's thresholds and pair model. Its vectors stay as they are: nothing has to be indexed again."""
    from app.bootstrap import build_encoder
    from app.model_store import load_bundle
    from app.training import calibrate as fitting

    loaded = load_bundle(bundle)
    reader = _Reader(loaded, build_encoder(Settings(), loaded), strict, images)
    named = columns(id_column, title_column, image_column, group_column, phash_column)
    data = reader.read(listings, named)
    fusion, before = loaded.manifest.encoder_fusion(), loaded.manifest.decision()
    points = fitting.fit_thresholds(data.labelled(), fusion, criterion)
    _show("Fitted (scores on the listings they were fitted to)", points)
    fitted = fitting.thresholds_of(points)
    thresholds = fitting.joined(before, fitted)
    after = _Calibration(thresholds, _fit_pairs(data, thresholds) if pair_model else None)
    metrics = dict(loaded.manifest.metrics)
    if report is not None:
        metrics["held_out"] = _report(reader.read(report, named), loaded, after)
    _write(loaded, after, listings, metrics)
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

    def read(self, file: Path, named: Any) -> LabelledFeatures:
        from app.labelled.listings import read_labelled
        from app.listings import count_rows
        from app.training.labelled_features import embed_labelled

        with progress(f"Reading {file.name}", count_rows(file)) as tick:
            read = read_labelled(file, named, self.images, strict=self.strict, tick=tick)
        with progress(f"Embedding {file.name}", len(read.items)) as tick:
            found, bad = embed_labelled(read.items, self.encoder, self.bundle.manifest.encoder_fusion(), tick)
        show_bad_rows([*read.problems, *bad])
        return found


def _fit_pairs(data: LabelledFeatures, thresholds: Thresholds) -> Fitted | None:
    """Fits the pair model; None, after saying why, where the listings are too few for one."""
    from app.errors import InvalidListings
    from app.training.pair_model import FOLDS, fit_pair_model, measure_pairs

    with progress("Collecting evidence", len(data.labels)) as tick:
        table = data.candidate_pairs(thresholds, tick)
    try:
        with progress("Fitting the pair model", FOLDS + 1) as tick:
            fitted = fit_pair_model(table, data.labels, tick=tick)
    except InvalidListings as error:
        console.print(f"[yellow]No new pair model: {error}[/]")
        return None
    title = "Pair model, candidate pairs of groups that its trees had not seen"
    _show_pairs(title, {"fitted": measure_pairs(fitted.probability, table.same, fitted.spec)})
    return fitted


def _report(other: LabelledFeatures, loaded: Bundle, after: _Calibration) -> list[dict[str, Any]]:
    """Measures thresholds and pair models, before and after, on other listings; returns the figures of afterwards."""
    from app.pair_model import PairModel
    from app.training import calibrate as fitting

    fusion, before = loaded.manifest.encoder_fusion(), loaded.manifest.decision()
    _show("Before, on the other listings", fitting.measure(other.labelled(), fusion, before))
    measured = fitting.measure(other.labelled(), fusion, after.thresholds)
    _show("After, on the other listings", measured)
    figures: list[dict[str, Any]] = [{name: _rounded(value) for name, value in asdict(point).items()} for point in measured]
    models: dict[str, tuple[PairModel, Thresholds]] = {}
    if loaded.manifest.pairs is not None:
        models["before"] = PairModel.load(loaded.manifest.pairs, loaded.folder), before
    if after.pairs is not None:
        models["after"] = PairModel(after.pairs.spec, after.pairs.text), after.thresholds
    found = {name: _measured(other, model, thresholds) for name, (model, thresholds) in models.items()}
    if found:
        _show_pairs("Pair model, candidate pairs of the other listings", found)
    if "after" in found:
        figures.append({"pair_model": {name: _rounded(value) for name, value in asdict(found["after"]).items()}})
    return figures


def _measured(data: LabelledFeatures, model: Any, thresholds: Thresholds) -> PairMetrics:
    from app.training.pair_model import measure_pairs

    with progress("Collecting evidence", len(data.labels)) as tick:
        table = data.candidate_pairs(thresholds, tick)
    return measure_pairs(model.probability(table.evidence), table.same, model.spec)


def _write(loaded: Bundle, after: _Calibration, listings: Path, metrics: dict[str, Any]) -> None:
    """Replaces the bundle by one that differs in thresholds and pair model only."""
    from app.files import sha256_of
    from app.model_store import Manifest, write_bundle

    old = loaded.manifest
    pairs: PairSpec | None = old.pairs if after.pairs is None else after.pairs.spec
    update = {
        "thresholds": {modality: list(points) for modality, points in after.thresholds.points.items()},
        "pairs": pairs,
        "data": dict(old.data) | {"calibration": {"file": listings.name, "sha256": sha256_of(listings)}},
        "metrics": metrics,
    }

    def copied(folder: Path) -> Manifest:
        for name in old.files:
            shutil.copyfile(loaded.folder / name, folder / name)
        if after.pairs is not None:
            (folder / after.pairs.spec.weights).write_text(after.pairs.text, "utf-8")
        return old.model_copy(update=update)

    write_bundle(loaded.folder, copied)


def _rounded(value: float | str) -> float | str | None:
    if isinstance(value, float):
        return round(value, 4) if value == value else None
    return value


def _show(title: str, points: Sequence[Point]) -> None:
    table = Table(title=title, title_justify="left")
    for column in ("query has", "gallery", "threshold", "decision", "F1", "precision", "recall"):
        table.add_column(column, justify="left" if column == "query has" else "right")
    for p in points:
        numbers = [f"{value:.3f}" for value in (p.threshold, p.decision, p.f1, p.precision, p.recall)]
        table.add_row(p.modality, f"{p.gallery:,}", *numbers)
    console.print(table)


def _show_pairs(title: str, models: dict[str, PairMetrics]) -> None:
    table = Table(title=title, title_justify="left")
    named = ("", "pairs", "the same", "calibration error", "precision at .95", "at .99", "of a match", "recall of a match")
    for column in named:
        table.add_column(column, justify="right" if column else "left")
    for name, m in models.items():
        numbers = (m.calibration_error, m.precision_at_95, m.precision_at_99, m.match_precision, m.match_recall)
        table.add_row(name, f"{m.pairs:,}", f"{m.same:,}", *(f"{value:.3f}" if value == value else "-" for value in numbers))
    console.print(table)
