"""Where a run begins: pretrained towers, a projection that keeps their geometry, and heads that know every group.

One pass over the unchanged listings gives the pooled features of all of them. From these come the projections (principal
components), the batch normalisation, the weights of the n-grams (inverse document frequency), the first centre of every
group (its mean embedding), and what `distil` holds on to. With centres from data, heads teach from the first step on;
random ones of thousands of groups need epochs before they point anywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from torch import Tensor
from torch.nn import functional

from app.core.spec import EncoderSpec, FusionSpec, NgramSpec
from app.encoders import colours, pretrained
from app.encoders.image import ImageTower
from app.encoders.multimodal import load_image_tower, load_title_tower
from app.encoders.ngrams import NgramReader
from app.encoders.runtime import Runtime
from app.encoders.title import TitleTokens, TitleTower
from app.errors import InvalidInput
from app.labelled.listings import Item
from app.training.arcface import ArcFaceHead
from app.training.dataset import Collate, ListingDataset
from app.training.model import Batch, NormalisedTower, TrainingModel
from app.training.projection import principal_components

PCA_ROWS = 20_000
COLOUR_SHARE = 0.25  # of the cosine, to begin with; measured in docs/experiments.md
RARE = 0.003  # document frequency below which n-grams weigh alike; measured in docs/experiments.md
_BATCH = 32


@dataclass(frozen=True, slots=True)
class Towers:
    """What a run starts from.

    Attributes:
        image_encoder, title_encoder: names or folders, see `app.encoders.pretrained`; None for no such tower.
        image, title: how they are used.
        image_dim, title_dim: of the projections.
        ngrams: the part of the title's vector beside the transformer, None for none.
        weight: w, the photo's share of the fused cosine.
        teacher_prefix: what `distil` holds on to reads titles with this prefix; None: with the tower's own.
    """

    image_encoder: str | None
    title_encoder: str | None
    image: pretrained.ImageOptions
    title: pretrained.TitleOptions
    image_dim: int = 512
    title_dim: int = 384
    ngrams: NgramSpec | None = None
    weight: float = 0.5
    teacher_prefix: str | None = None


def prepare(towers: Towers, folder: Path) -> tuple[EncoderSpec, ImageTower | None, TitleTower | None]:
    """Writes the files of the pretrained towers into a folder and returns them with fresh projections.

    Raises:
        InvalidInput: no tower at all, one that cannot be loaded, or a dimension or w outside its range.
    """
    weight = _checked_weight(towers)
    try:
        return _prepared(towers, weight, folder)
    except ValidationError as error:
        first = error.errors()[0]
        option = ".".join(map(str, first["loc"])) or "towers"
        raise InvalidInput(f"{option} cannot be {first['input']!r}: {first['msg']}.") from error


def _prepared(towers: Towers, weight: float, folder: Path) -> tuple[EncoderSpec, ImageTower | None, TitleTower | None]:
    image_spec = title_spec = image = title = None
    if towers.image_encoder is not None:
        plain = pretrained.image_tower(towers.image_encoder, towers.image, folder, "fp32")
        start = load_image_tower(EncoderSpec(image=plain, title=None, fusion=FusionSpec(weight=1.0)), folder)
        image_spec = plain.model_copy(update={"projection": True, "dim": min(towers.image_dim, plain.features)})
        image = ImageTower(image_spec)
        image.backbone.load_state_dict(start.backbone.state_dict())
    if towers.title_encoder is not None:
        plain_title = pretrained.title_tower(towers.title_encoder, towers.title, folder, "fp32")
        begin = load_title_tower(EncoderSpec(image=None, title=plain_title, fusion=FusionSpec(weight=0.0)), folder)
        own = min(towers.title_dim, plain_title.features)
        extra = towers.ngrams.dim if towers.ngrams else 0
        title_spec = plain_title.model_copy(update={"projection": True, "dim": own + extra, "ngrams": towers.ngrams})
        title = TitleTower(title_spec, begin.backbone.config.to_dict())  # type: ignore[union-attr, operator]
        title.backbone.load_state_dict(begin.backbone.state_dict())
    return EncoderSpec(image=image_spec, title=title_spec, fusion=FusionSpec(weight=weight)), image, title


def _checked_weight(towers: Towers) -> float:
    """Returns w, 1 or 0 for one tower. Raises InvalidInput for what would only show when the bundle is written."""
    if towers.image_encoder is None and towers.title_encoder is None:
        raise InvalidInput("there is nothing to train: give --image-encoder, --title-encoder or both.")
    if towers.image_dim < 1 or towers.title_dim < 1:
        raise InvalidInput(
            f"--image-dim and --title-dim are numbers of dimensions, not {towers.image_dim} and {towers.title_dim}."
        )
    if towers.image_encoder is None or towers.title_encoder is None:
        return float(towers.image_encoder is not None)
    if not 0 < towers.weight < 1:
        raise InvalidInput(f"--weight is the share of the image cosine and must lie in (0, 1), not {towers.weight}.")
    return towers.weight


@dataclass(frozen=True, slots=True)
class PooledFeatures:
    """Pooled features of the unchanged listings: `(rows, features)` float32, and which listing each row is."""

    image: Tensor
    with_photo: NDArray[np.int64]
    title: Tensor
    with_title: NDArray[np.int64]


@torch.no_grad()
def features_of(
    dataset: ListingDataset, tokens: TitleTokens | None, image: ImageTower | None, title: TitleTower | None,
    runtime: Runtime, tick: Callable[[int], None],
) -> PooledFeatures:  # fmt: skip
    """Embeds every listing once, unchanged; titles are batched by length. `tick` takes the number of listings done.

    The towers are on the CPU again afterwards, and in evaluation mode.
    """
    collate = Collate(tokens)
    for tower in (image, title):
        if tower is not None:
            runtime.place(tower)
    photos: list[Tensor] = []
    titles: list[Tensor] = []
    photo_rows: list[int] = []
    title_rows: list[int] = []
    order = sorted(range(len(dataset)), key=lambda n: len(dataset.items[n].title or ""))
    for start in range(0, len(order), _BATCH):
        numbers = order[start : start + _BATCH]
        batch: Batch = collate([dataset.plain(n) for n in numbers]).to(runtime.device)
        with runtime.autocast():
            if image is not None and batch.pixels is not None:
                photos.append(image.features(batch.pixels).float().cpu())
                photo_rows += [numbers[n] for n in batch.with_photo.tolist()]
            if title is not None and batch.titles is not None:
                titles.append(title.features(batch.titles).float().cpu())
                title_rows += [numbers[n] for n in batch.with_title.tolist()]
        tick(len(numbers))
    for tower in (image, title):
        if tower is not None:
            tower.cpu()  # where the rest of the model is, until training begins
    return PooledFeatures(
        torch.cat(photos) if photos else torch.zeros(0, 1), np.array(photo_rows, np.int64),
        torch.cat(titles) if titles else torch.zeros(0, 1), np.array(title_rows, np.int64),
    )  # fmt: skip


def begin(model: TrainingModel, features: PooledFeatures, items: Sequence[Item], seed: int) -> None:
    """Fits projections, normalisation, n-gram weights and centres to the features of the unchanged listings."""
    for tower, rows in ((model.image, features.image), (model.title, features.title)):
        if tower is not None:
            _fit_projection(tower, rows, seed)
    if model.title is not None and isinstance(model.title.tower, TitleTower) and model.title.tower.ngrams is not None:
        titles = [item.title for item in items if item.title]
        model.title.tower.ngrams.weight.data.copy_(inverse_document_frequency(titles, model.title.tower.ngrams.spec))


def _fit_projection(tower: NormalisedTower[ImageTower] | NormalisedTower[TitleTower], rows: Tensor, seed: int) -> None:
    kept = np.random.default_rng(seed).permutation(len(rows))[:PCA_ROWS]
    sample = rows[torch.from_numpy(kept)]
    dim = tower.projection.out_features
    if len(sample) > dim:  # with fewer listings than dimensions the random projection stays
        scales = _scales(tower.tower, sample)
        fitted = principal_components((sample * scales).numpy(), dim)
        tower.projection.weight.data.copy_(fitted.weight * scales)
        tower.projection.bias.data.copy_(fitted.bias)
    if len(sample) > 1:
        tower.begin(sample)


def _scales(tower: ImageTower | TitleTower, sample: Tensor) -> Tensor:
    """Returns a factor for each feature: colours get `COLOUR_SHARE` of the variance to begin with."""
    scales = torch.ones(sample.shape[1])
    if isinstance(tower, ImageTower) and tower.spec.colours:
        maps, histogram = (part.var(0).sum() for part in (sample[:, : -colours.WIDTH], sample[:, -colours.WIDTH :]))
        scales[-colours.WIDTH :] = (COLOUR_SHARE / (1 - COLOUR_SHARE) * maps / histogram).sqrt()
    return scales


def inverse_document_frequency(titles: Iterable[str], spec: NgramSpec) -> Tensor:
    """Returns `(buckets,)` weights, `1 - ln(df / n + RARE)`, scaled to a mean of 1 over what occurs.

    Without `RARE` n-grams that the training titles lack would weigh most, and they are all of another language's.
    """
    unique = sorted(set(titles))
    frequency = NgramReader(spec).document_frequency(unique, spec.buckets)
    weights = 1 - (frequency / max(1, len(unique)) + RARE).log()
    seen = frequency > 0
    return weights / (weights[seen].mean() if seen.any() else 1.0)


@torch.no_grad()
def centres_from(
    model: TrainingModel, features: PooledFeatures, dataset: ListingDataset, tokens: TitleTokens | None
) -> None:
    """Sets the first centre of every group to the mean embedding of its listings; others stay a little beside it."""
    was_training = model.training
    model.eval()
    heads = model.arcface_heads()
    sums = {name: torch.zeros(head.groups, head.weight.shape[1]) for name, head in heads.items()}
    photo_row = {int(n): row for row, n in enumerate(features.with_photo)}
    title_row = {int(n): row for row, n in enumerate(features.with_title)}
    for start in range(0, len(dataset), 1024):
        numbers = range(start, min(start + 1024, len(dataset)))
        photos = [(k, photo_row[n]) for k, n in enumerate(numbers) if n in photo_row]
        titled = [(k, title_row[n]) for k, n in enumerate(numbers) if n in title_row]
        batch = Batch(
            labels=torch.from_numpy(dataset.labels[list(numbers)]),
            pixels=None,
            with_photo=torch.tensor([k for k, _ in photos], dtype=torch.long),
            titles=tokens([dataset.items[start + k].title or "" for k, _ in titled]) if tokens and titled else None,
            with_title=torch.tensor([k for k, _ in titled], dtype=torch.long),
            show_photo=_flags(len(numbers), photos),
            show_title=_flags(len(numbers), titled),
            numbers=torch.tensor(numbers),
        )
        rows = features.image[[row for _, row in photos]] if photos else None
        words = features.title[[row for _, row in titled]] if titled else None
        embedded = model.embed(batch, rows, words)
        of = {"image": batch.with_photo, "title": batch.with_title}
        for name, total in sums.items():
            if name in embedded:
                labels = batch.labels[of[name]] if name in of else batch.labels
                total.index_add_(0, labels, functional.normalize(embedded[name]))
    for name, head in heads.items():
        _place(head, sums[name])
    model.train(was_training)


def _flags(n: int, found: Sequence[tuple[int, int]]) -> Tensor:
    flags = torch.zeros(n)
    flags[[k for k, _ in found]] = 1
    return flags


def _place(head: ArcFaceHead, sums: Tensor) -> None:
    mean = functional.normalize(sums)
    before = head.weight.view(len(sums), head.centres, -1)
    spread = 0.1 * functional.normalize(before, dim=-1)
    spread[:, 0] = 0
    empty = sums.norm(dim=1) == 0
    placed = torch.where(empty[:, None, None], before, mean[:, None] + spread)
    head.weight.copy_(placed.reshape(head.weight.shape))
