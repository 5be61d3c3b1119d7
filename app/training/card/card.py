"""The evidence that comes with a bundle: a model card, `README.md`, and the plots that it shows."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.core.decision import MODALITIES, Thresholds
from app.core.spec import EncoderSpec, ImageSpec, TitleSpec
from app.evaluation.results import Evaluation
from app.labelled.listings import Item
from app.training.card import plots
from app.training.card.sheets import PAIRS, write_sheet
from app.training.card.tables import NONE, cell, count, rate, results, table, verdict
from app.training.config import TrainingConfig

CARD = "README.md"
SAID_OF_QUERIES = {"fused": "photo and title", "image": "photo", "title": "title", "phash": "hash"}

_LIMITS = (
    "A cosine is no probability: 0.800 does not mean that four of five such pairs are the same product.",
    "Scores and thresholds belong to this bundle alone, and say nothing about another one's.",
    "Thresholds fit data like those they were fitted to. Other products, languages or photos want their own.",
    "Where a catalog is much larger than the largest gallery measured, more false matches must be expected.",
    "Products that differ in colour, size or count only are the likeliest false matches.",
)

Plot = tuple[str, str]  # name of the file, caption


@dataclass(frozen=True, slots=True)
class CardFacts:
    """What a card says that was not measured.

    Attributes:
        name: of the bundle.
        spec: its encoders.
        config: how they were trained; None if they were not.
        origin: what they started from.
        data: what was used for what (`training`, `calibration`, `test`), see `app.labelled.listings.fingerprint`; `file`,
            `fold` and `what` are shown where they are given.
        thresholds: of the bundle.
        command: the command line that made it, if it is known.
    """

    name: str
    spec: EncoderSpec
    config: TrainingConfig | None
    origin: Mapping[str, Any]
    data: Mapping[str, Any]
    thresholds: Thresholds
    command: str | None


def write_card(
    folder: Path,
    facts: CardFacts,
    history: Sequence[Mapping[str, float]],
    evaluation: Evaluation | None,
    items: Mapping[str, Item],
) -> list[str]:
    """Writes the model card and its plots.

    What there is no data for is left out, and the card says so.

    Args:
        folder: of the bundle to be.
        facts: what was not measured.
        history: records of the run, see `app.training.history`; empty without one.
        evaluation: measured on listings that nothing was fitted to; None without such.
        items: the evaluated listings by id, for names, titles and photos.

    Returns:
        Names of the files written, the card first.
    """
    drawn = [*_loss(folder, history), *_measured(folder, evaluation, items)]
    parts = [
        f"# {facts.name}",
        verdict(evaluation),
        "## What it is",
        _what(facts.spec),
        "## How it was made",
        *_made(facts),
        "## Data",
        _data(facts.data),
        "## Results",
        *results(evaluation),
        "## Thresholds",
        *_thresholds(facts.thresholds),
        "## Plots",
        *_shown(drawn, history, evaluation),
        "## Limits",
        *_limits(evaluation),
    ]
    (folder / CARD).write_text("\n\n".join(parts) + "\n", "utf-8")
    return [CARD, *(name for name, _ in drawn)]


def _loss(folder: Path, history: Sequence[Mapping[str, float]]) -> list[Plot]:
    caption = "Loss of each head over the epochs, and the learning rates and the margin that went with it."
    return [("loss.png", caption)] if plots.loss(folder / "loss.png", history) else []


def _measured(folder: Path, found: Evaluation | None, items: Mapping[str, Item]) -> list[Plot]:
    if found is None:
        return []
    draw: list[tuple[str, Callable[[Path, Evaluation], bool], str]] = [
        ("f1.png", plots.f1, "F1, precision and recall at every threshold; the dot is the bundle's own, the star the best."),
        (
            "scores.png",
            plots.scores,
            "Scores of pairs: the less blue and orange overlap, the less a threshold has to give up.",
        ),
        (
            "precision-recall.png",
            plots.precision_recall,
            "Precision over recall, both means over queries; the dot is the bundle's threshold.",
        ),
        (
            "gallery.png",
            plots.gallery,
            "The same queries among more and more other listings; each size has its own threshold.",
        ),
    ]
    drawn = [(name, caption) for name, plot, caption in draw if plot(folder / name, found)]
    if found.sample is not None and plots.embedding_map(folder / "map.png", found.sample, items):
        drawn.append(("map.png", "Embeddings of whole groups, drawn so that neighbours stay neighbours."))
    for name, heading, pairs, caption in (
        (
            "false-matches.png",
            f"Worst false matches: at or above the threshold ({rate(found.threshold)}), but of different groups",
            found.false_matches,
            "False matches with the highest scores; some may be errors of the labels.",
        ),
        (
            "misses.png",
            f"Worst misses: of one group, but below the threshold ({rate(found.threshold)})",
            found.misses,
            "Pairs of one group with the lowest scores; some may be errors of the labels.",
        ),
    ):
        if pairs:
            write_sheet(folder / name, heading, pairs, items)
            drawn.append((name, f"{caption} Shown: {min(PAIRS, len(pairs))}, of many groups where there are."))
    return drawn


def _shown(drawn: Iterable[Plot], history: Sequence[Any], found: Evaluation | None) -> list[str]:
    said = [f"![{Path(name).stem}]({name})\n\n{caption}" for name, caption in drawn]
    if not history:
        said.append("There is no history of a training run, so there is no plot of its loss.")
    if found is None:
        said.append("Nothing was measured, so there are no plots of results.")
    elif not found.false_matches:
        said.append("There was no false match between listings of different groups.")
    if found is not None and not found.misses:
        said.append("No pair of one group was missed.")
    return said


def _what(spec: EncoderSpec) -> str:
    rows = [("photos", _image(spec.image)), ("titles", _title(spec.title))]
    dim = sum(tower.dim for tower in (spec.image, spec.title) if tower is not None)
    if spec.image is not None and spec.title is not None:
        w = spec.fusion.weight
        rows.append(("fusion", f"normalise, then concatenate; w = {w:.3f} for the photo, {1 - w:.3f} for the title"))
    rows.append(("embedding", f"{dim:,} dimensions, unit length; a score is the cosine of two of them"))
    return table(("", ""), rows)


def _image(spec: ImageSpec | None) -> str:
    if spec is None:
        return "not read"
    how = spec.preprocessing
    framing = f"crop of {how.crop_share:.3f} to" if how.framing == "crop" else f"{how.framing} to"
    pooling = f"GeM pooling (p = {spec.gem_power:.3f})" if spec.pooling == "gem" else "average pooling"
    colours = ", a histogram of colours" if spec.colours else ""
    width = f"{spec.features:,} -> {spec.dim:,} dimensions"
    return f"`{spec.architecture}`, {framing} {how.size} px, {pooling}{colours}, {width}"


def _title(spec: TitleSpec | None) -> str:
    if spec is None:
        return "not read"
    prefix = f'prefix `"{spec.prefix}"`, ' if spec.prefix else ""
    sizes = f"{spec.features:,} -> {spec.own_dim:,} dimensions"
    own = f"transformer, {prefix}up to {spec.max_tokens:,} tokens, mean pooling, {sizes}"
    if spec.ngrams is None:
        return own
    part = spec.ngrams
    return (
        f"{own}; character n-grams of {part.shortest} to {part.longest}, {part.dim:,} dimensions, "
        f"share {part.share:.3f} of the title's cosine"
    )


def _made(facts: CardFacts) -> list[str]:
    said = []
    start = [f"{key.replace('_', ' ')} `{value}`" for key, value in facts.origin.items() if value is not None]
    if start:
        said.append(f"Started from: {', '.join(start)}.")
    if facts.config is None:
        said.append("The towers were not trained for this bundle: their weights are those of what they started from.")
    else:
        said += _config(facts.config)
    if facts.command:
        fence = "```" if "```" not in facts.command else "~~~~"
        said.append(f"{fence}console\n{facts.command}\n{fence}")
    else:
        said.append("The command that made it was not recorded.")
    return said


def _config(config: TrainingConfig) -> list[str]:
    fall = f", up to {config.margin_fall:.3f} less for large groups" if config.margin_fall else ""
    margin = f"margin {config.margin_start:.3f} rising to {config.margin:.3f} radians{fall}, scale {config.scale:g}"
    heads = f"{config.head} heads ({margin})"
    listings = f"{config.batch_size * config.accumulate:,} listings per update and process"
    said = [f"Trained for {config.epochs:,} epochs with {heads}, {listings}."]
    rows = []
    for name, field in TrainingConfig.model_fields.items():
        value = getattr(config, name)
        if value != field.default:
            rows.append((f"`{name}`", _option(value), _option(field.default)))
    if rows:
        said.append(table(("option", "value", "default"), rows))
    return [*said, "All other options have their defaults." if rows else "All options have their defaults."]


def _option(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else json.dumps(value).strip('"')


def _data(data: Mapping[str, Any]) -> str:
    known = {name: part for name, part in data.items() if isinstance(part, Mapping)}
    if not known:
        return "What data was used was not recorded."
    sizes = ("listings", "groups", "groups_of_two_or_more", "with_title", "with_photo")
    extra = [key for key in ("file", "fold", "what") if any(part.get(key) is not None for part in known.values())]
    header = ("used for", *extra, *(size.replace("_", " ") for size in sizes), "SHA-256, first 16 digits")
    rows = []
    for name, part in known.items():
        which = [cell(NONE if part.get(key) is None else str(part[key])) for key in extra]
        digest = f"`{str(part['sha256'])[:16]}`" if part.get("sha256") else NONE
        rows.append((cell(name), *which, *(count(part.get(size)) for size in sizes), digest))
    left = 1 + len(extra)
    missing = [name for name in ("training", "calibration", "test") if name not in known]
    note = f"\n\nNothing was kept for: {', '.join(missing)}." if missing else ""
    return table(header, rows, left) + note


def _thresholds(thresholds: Thresholds) -> list[str]:
    rows = [
        (SAID_OF_QUERIES[modality], count(size), rate(threshold))
        for modality in MODALITIES
        for size, threshold in thresholds.points.get(modality, ())
    ]
    if not rows:
        return ["There are none: calibrate the bundle before it is used."]
    rule = (
        "A listing matches if its score is at or above the threshold for what the query has and for the size of the "
        "catalog. Between two sizes it is interpolated in the logarithm of the size; beyond the largest it goes on rising, "
        "below the smallest that one counts."
    )
    return [rule, table(("query has", "gallery", "threshold"), rows)]


def _limits(found: Evaluation | None) -> list[str]:
    said = list(_LIMITS)
    if found is None:
        said.append("How good this bundle is was not measured on listings kept apart.")
    else:
        said.append("Errors of the labels count as errors of the bundle here.")
    return ["\n".join(f"- {one}" for one in said)]
