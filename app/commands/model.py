"""What compares listings: the signals that were asked for, and of a bundle what they need."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from app.bootstrap import build_encoder, build_pair_model
from app.core.decision import Thresholds
from app.core.fusion import Fusion
from app.encoders.base import Encoder
from app.errors import InvalidInput
from app.evaluation.features import SIGNALS
from app.labelled.listings import Item
from app.model_store import load_bundle
from app.pair_model import PairModel
from app.settings import Settings


@dataclass(frozen=True, slots=True)
class Model:
    """The signals, and what compares them; with hashes alone, no bundle is needed."""

    signals: tuple[str, ...]
    label: str | None = None
    encoder: Encoder | None = None
    fusion: Fusion | None = None
    thresholds: Thresholds | None = None
    pairs: PairModel | None = None


def choose_model(folder: Path | None, wanted: str | None, items: Sequence[Item]) -> Model:
    """Loads what the signals need.

    Args:
        folder: of the bundle; None for that of the settings.
        wanted: signals separated by commas; None for what both the bundle and the listings have.
        items: the listings.

    Raises:
        InvalidInput: signals that nobody, or this bundle, can compare.
        BundleError: the bundle cannot be loaded.
    """
    asked = None if wanted is None else tuple(dict.fromkeys(one.strip() for one in wanted.split(",")))
    if asked is not None and not set(asked) <= set(SIGNALS):
        raise InvalidInput(f"--signals takes some of {', '.join(SIGNALS)}, separated by commas, not '{wanted}'.")
    if asked == ("phash",):
        return Model(asked)
    settings = Settings()
    loaded = load_bundle(folder or settings.bundle)
    manifest = loaded.manifest
    able = manifest.spec().modalities() - {"fused"}
    there = {"title": any(item.title for item in items), "image": any(item.photo for item in items)}
    chosen = asked or tuple(name for name in ("title", "image") if name in able and there[name])
    lacking = [name for name in chosen if name != "phash" and name not in able]
    if lacking or not chosen:
        what = f"--signals {lacking[0]} needs another bundle" if lacking else "the table has none of that"
        raise InvalidInput(f"{loaded.label} reads {' and '.join(sorted(able))} only: {what}.")
    fusion, thresholds = manifest.encoder_fusion(), manifest.decision()
    return Model(chosen, loaded.label, build_encoder(settings, loaded), fusion, thresholds, build_pair_model(loaded))
