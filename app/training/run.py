"""A whole training run: listings and pretrained towers in, a complete bundle out.

listings -> folds -> towers and first features (`start`) -> `trainer` -> files (`export`) -> thresholds (`calibrate`)
-> metrics on the fold kept apart (`evaluation`) -> card with plots (`report`) -> the bundle, in one step
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save

from app.core.spec import EncoderSpec
from app.encoders.image import ImageTower
from app.encoders.runtime import Runtime
from app.encoders.title import TitleTokens, TitleTower
from app.errors import InvalidListings
from app.files import write_file
from app.labelled.folds import fold_of
from app.labelled.listings import Item, fingerprint
from app.training.config import TrainingConfig
from app.training.dataset import ListingDataset
from app.training.distil import Teacher, teacher_from
from app.training.model import TrainingModel
from app.training.start import PooledFeatures, Towers, begin, centres_from, features_of, prepare
from app.training.trainer import Report, Run, Trainer, freeze, make_accelerator, set_dropout

Ticks = Callable[[str, int | None], AbstractContextManager[Callable[[int], None]]]


@dataclass(frozen=True, slots=True)
class Split:
    """Listings by what they are for: no group, photo or family is in two of them."""

    train: list[Item]
    calibration: list[Item]
    test: list[Item]


def split(items: Sequence[Item], calibration: tuple[int, int] | None, test: tuple[int, int] | None) -> Split:
    """Deals listings by folds; what is in both folds is for the test.

    Args:
        items: all listings.
        calibration: (fold, folds), see `app.labelled.folds`; None keeps none apart.
        test: likewise.

    Raises:
        InvalidListings: nothing is left to train on, or fewer than two groups.
    """
    folds = {one: fold_of(items, one[1]) == one[0] for one in (calibration, test) if one is not None}
    nowhere = np.zeros(len(items), bool)
    tested = folds[test] if test else nowhere
    calibrated = (folds[calibration] if calibration else nowhere) & ~tested
    parts = [
        [item for item, chosen in zip(items, mask, strict=True) if chosen]
        for mask in (~tested & ~calibrated, calibrated, tested)
    ]
    if len({item.group for item in parts[0]}) < 2:
        raise InvalidListings("fewer than two groups are left to train on: give more listings, or keep smaller folds apart.")
    return Split(*parts)


def apart(items: Sequence[Item], table: str | None, own: bool) -> list[Item]:
    """Returns the listings of one table with its name before their groups and families, for training on several tables.

    Folds follow from the names of groups, so they are those of `evaluate --fold` only where nothing stands before them.

    Args:
        items: of the table.
        table: its name; None if it is the only one.
        own: make a listing without a group a group of its own, instead of leaving it out.
    """
    named = []
    for item in items:
        group = item.group if item.group is not None else f"\0{item.id}" if own else None
        if group is not None:
            before = "" if table is None else f"{table}:"
            family = f"{before}{item.family}" if item.family is not None else None
            named.append(replace(item, group=before + group, family=family))
    return named


def features_name(towers: Towers, items: Sequence[Item]) -> str:
    """Names the features of unchanged listings by what they depend on."""
    return hashlib.sha256(json.dumps([repr(towers), fingerprint(items)], sort_keys=True).encode()).hexdigest()[:16]


def run_name(config: TrainingConfig, towers: Towers, items: Sequence[Item]) -> str:
    """Names a run by everything that it depends on but the machine."""
    fixed = config.model_dump(mode="json", exclude={"workers", "checkpoint_minutes", "precision"})
    told = json.dumps([fixed, repr(towers), fingerprint(items)], sort_keys=True)
    return hashlib.sha256(told.encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Trained:
    """What a run leaves: the model, the folder with the start of its towers, its name, and whether to write the bundle."""

    model: TrainingModel
    start: Path
    name: str
    main: bool


def train(
    parts: Split,
    towers: Towers,
    config: TrainingConfig,
    folder: Path,
    resume: bool,
    device: str,
    ticks: Ticks,
    report: Report,
) -> Trained:
    """Trains a model.

    Args:
        parts: the listings.
        towers: what to start from.
        config: how.
        folder: of the run: checkpoint, history, and the files of the towers.
        resume: go on from the checkpoint in it.
        device: `auto`, `cuda` or `cpu`.
        ticks: makes a progress bar from a title and a total.
        report: called after every update.

    Raises:
        InvalidInput: towers that cannot be loaded, or a checkpoint that does not fit.
        InvalidListings: the towers can read listings of fewer than two groups.
        TrainingInterrupted, TrainingFailed: as `Trainer.train`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(config.seed)
    accelerator = make_accelerator(config, device)
    start = folder / ("start" if accelerator.is_main_process else f"start-{accelerator.process_index}")
    spec, image, title = prepare(towers, emptied(start))
    items, name = readable(parts.train, spec), run_name(config, towers, parts.train)
    labels = np.unique([str(item.group) for item in items], return_inverse=True)[1].astype(np.int64)
    dataset = ListingDataset(items, labels, spec, config)
    tokens = TitleTokens(spec.title, start / spec.title.tokenizer) if spec.title else None
    model = TrainingModel(spec, image, title, int(labels.max()) + 1, config)
    model.set_sizes(torch.from_numpy(np.bincount(labels)))
    runtime = Runtime(accelerator.device)
    teacher = None
    if not resume or config.distil:
        with accelerator.main_process_first():
            features = _features(
                dataset, tokens, image, title, runtime, folder / f"{features_name(towers, items)}.features", ticks
            )
        begin(model, features, items, config.seed)
        centres_from(model, features, dataset, tokens)
        if config.distil:
            teacher = _teacher(towers, features, dataset, runtime, folder, ticks)
    model.requires_grad_(True)  # embedding the listings took it away
    freeze(model, config)
    set_dropout(model, config)
    trainer = Trainer(model, dataset, tokens, config, Run(folder, name, resume), accelerator, teacher)
    trainer.train(report)
    return Trained(model.cpu().eval(), start, name, accelerator.is_main_process)


def readable(items: Sequence[Item], spec: EncoderSpec) -> list[Item]:
    """Returns the listings that have something for a tower to read; a photo that cannot be decoded shows only later.

    Raises:
        InvalidListings: they are of fewer than two groups.
    """
    kept = [item for item in items if (spec.image and item.photo is not None) or (spec.title and item.title is not None)]
    if len({item.group for item in kept}) < 2:
        raise InvalidListings("fewer than two groups have a photo or a title for these towers: give the other encoder too.")
    return kept


def emptied(folder: Path) -> Path:
    """Returns the folder, made anew."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def _features(
    dataset: ListingDataset, tokens: TitleTokens | None, image: ImageTower | None, title: TitleTower | None,
    runtime: Runtime, cache: Path, ticks: Ticks,
) -> PooledFeatures:  # fmt: skip
    """Computes the features of all listings, or reads those that an interrupted run has left."""
    if cache.is_file():
        stored = load_file(cache)
        return PooledFeatures(stored["image"], stored["with_photo"].numpy(), stored["title"], stored["with_title"].numpy())
    with ticks("Embedding the listings as they are", len(dataset)) as tick:
        found = features_of(dataset, tokens, image, title, runtime, tick)
    arrays = {
        "image": found.image, "with_photo": torch.from_numpy(found.with_photo),
        "title": found.title, "with_title": torch.from_numpy(found.with_title),
    }  # fmt: skip
    write_file(cache, save({name: tensor.contiguous() for name, tensor in arrays.items()}))
    return found


def _teacher(
    towers: Towers, own: PooledFeatures, dataset: ListingDataset, runtime: Runtime, folder: Path, ticks: Ticks
) -> Teacher:  # fmt: skip
    """The features to stay close to: the run's own first ones, but for titles those of the whole tower, as it wants them.

    The whole tower has all layers, all words, and its prefix.
    """
    prefix = towers.teacher_prefix or towers.title.prefix
    wanted = replace(towers.title, layers=None, vocabulary=None, scripts=None, prefix=prefix)
    if towers.title_encoder is None or wanted == towers.title:
        return teacher_from(own, len(dataset))
    whole = replace(towers, image_encoder=None, title=wanted)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        spec, _, title = prepare(whole, Path(scratch))
        tokens = TitleTokens(spec.title, Path(scratch) / spec.title.tokenizer) if spec.title else None
        titles = ListingDataset(dataset.items, dataset.labels, spec, dataset.config)
        cache = folder / f"{features_name(whole, dataset.items)}.features"
        full = _features(titles, tokens, None, title, runtime, cache, ticks)
    return teacher_from(replace(own, title=full.title, with_title=full.with_title), len(dataset))
