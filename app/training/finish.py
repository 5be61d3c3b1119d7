"""The end of a run: from trained weights to a bundle with thresholds, metrics and a card."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from app.core.decision import Thresholds
from app.core.fusion import Fusion
from app.core.spec import EncoderSpec
from app.encoders.multimodal import MultimodalEncoder
from app.encoders.pretrained import origin_of
from app.encoders.runtime import DeviceName, choose
from app.errors import InvalidListings
from app.evaluation.evaluate import About, evaluate
from app.evaluation.features import embed_items
from app.evaluation.results import Evaluation
from app.evaluation.subjects import subjects_of
from app.labelled.listings import Item, fingerprint
from app.model_store import Bundle, Manifest, new_manifest, write_bundle
from app.training import calibrate
from app.training.calibrate import Criterion
from app.training.card.card import CardFacts, write_card
from app.training.config import TrainingConfig
from app.training.export import Storage, write_towers
from app.training.history import HISTORY, read_history
from app.training.labelled_features import embed_distractors, embed_labelled, with_short_titles
from app.training.pair_model import FITS, Fitted, fit_pair_model
from app.training.run import Split, Ticks, Trained
from app.training.start import Towers

UNFITTED = 0.5  # where there is too little to fit a threshold to
LARGER = 30_000  # listings of the training, at most, that fill up the gallery of those kept apart


@dataclass(frozen=True, slots=True)
class Finish:
    """What becomes of a trained model.

    Attributes:
        out: folder of the bundle.
        run: folder of the run.
        towers, config: of the run, for the record.
        storage: how weights are stored.
        criterion: of the thresholds.
        command: what was typed, for the card.
        device: where to embed the listings that were kept apart.
    """

    out: Path
    run: Path
    towers: Towers
    config: TrainingConfig
    storage: Storage
    criterion: Criterion
    command: str
    device: DeviceName


def finish(trained: Trained, parts: Split, how: Finish, ticks: Ticks) -> Bundle:
    """Writes the bundle; `how.out` holds the old one or the new one, whole, at every moment.

    Raises:
        BundleError: `how.out` is taken by something else.
    """

    def fill(folder: Path) -> Manifest:
        spec = write_towers(trained.model, trained.start, folder, how.storage)
        encoder = MultimodalEncoder(spec, folder, choose(how.device))
        fusion = Fusion(spec.fusion.weight, encoder.image_dim, encoder.title_dim)
        thresholds, pairs = _calibrated(parts, spec, encoder, fusion, how.criterion, ticks)
        if pairs is not None:
            pairs.write(folder)
        found = _evaluation(parts.test, encoder, fusion, thresholds, how.out.name, ticks)
        data = {
            name: fingerprint(items)
            for name, items in (("training", parts.train), ("calibration", parts.calibration), ("test", parts.test))
            if items
        }
        origin = {"image_encoder": origin_of(how.towers.image_encoder), "title_encoder": origin_of(how.towers.title_encoder)}
        facts = CardFacts(how.out.name, spec, how.config, origin, data, thresholds, how.command)
        everyone = {item.id: item for item in parts.test}
        write_card(folder, facts, read_history(how.run / HISTORY), found, everyone)
        training = {"run": trained.name, **how.config.model_dump(mode="json"), "criterion": how.criterion}
        return new_manifest(
            how.out.name, spec, {name: list(points) for name, points in thresholds.points.items()},
            None if pairs is None else pairs.spec,
            origin=origin, training=training, data=data, metrics=_headline(found),
        )  # fmt: skip

    return write_bundle(how.out, fill)


def _calibrated(
    parts: Split, spec: EncoderSpec, encoder: MultimodalEncoder, fusion: Fusion, criterion: Criterion, ticks: Ticks
) -> tuple[Thresholds, Fitted | None]:
    """Fits thresholds and the pair model, each where there is enough to fit it to: the card shows what there is.

    The listings of the training are in the gallery, too, as they will be in the catalog of whoever trains on it.
    """
    points: dict[str, Any] = {modality: [(1, UNFITTED)] for modality in sorted(spec.modalities())}
    if not parts.calibration:
        return Thresholds(points), None
    with ticks("Embedding the calibration listings", len(parts.calibration)) as tick:
        data, _ = embed_labelled(parts.calibration, encoder, fusion, tick)
    order = np.random.default_rng(0).permutation(len(parts.train))[:LARGER]
    with ticks("Embedding a gallery for them", len(order)) as tick:
        more, _ = embed_distractors([parts.train[n] for n in order], encoder, fusion, tick)
    with suppress(InvalidListings):
        fitted = calibrate.fit_thresholds(data.labelled(), fusion, criterion, more=more.labelled())
        points |= calibrate.thresholds_of(fitted).points
    thresholds = Thresholds(points)
    found = with_short_titles(data, encoder, ticks).in_all_galleries(thresholds, ticks, more)
    with suppress(InvalidListings), ticks("Fitting the pair model", FITS) as tick:
        return thresholds, fit_pair_model(found.table, found.labels, found.smaller, found.larger, found.made, tick=tick)
    return thresholds, None


def _evaluation(
    items: list[Item], encoder: MultimodalEncoder, fusion: Fusion, thresholds: Thresholds, name: str, ticks: Ticks
) -> Evaluation | None:
    if not items:
        return None
    with ticks("Embedding the test listings", len(items)) as tick:
        features, kept, _ = embed_items(items, ("image", "title"), encoder, fusion, tick)
    subjects = subjects_of(items, [], kept)
    with ticks("Measuring", subjects.listings) as tick:
        return evaluate(features, subjects, thresholds, About(name, fingerprint(items), ("title", "image")), tick)


def _headline(found: Evaluation | None) -> dict[str, Any]:
    if found is None:
        return {}
    return {name: value for name, value in found.to_json().items() if isinstance(value, int | float | bool | str)}
