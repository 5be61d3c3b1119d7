"""Listings as training samples: photos decoded and edited, titles reworded, put together into batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import Dataset

from app.core.product import Pixels
from app.core.spec import EncoderSpec
from app.encoders.preprocess import InputLimits, frame, open_image
from app.encoders.title import TitleTokens
from app.errors import AppError
from app.labelled.listings import Item
from app.training.augment.photo import PhotoAugmentation, augment
from app.training.augment.title import TitleAugmentation, augment_title
from app.training.batches import Visit
from app.training.config import TrainingConfig
from app.training.model import Batch

BACKGROUNDS = 48  # photos kept decoded, for collages and clutter
_BACKGROUND_SIDE_PX = 160


@dataclass(frozen=True, slots=True)
class Sample:
    """One listing as an epoch sees it: its number, what the towers read, and which halves the fused head is shown."""

    number: int
    label: int
    pixels: Pixels | None
    title: str | None
    show_photo: bool
    show_title: bool


class ListingDataset(Dataset[Sample]):
    """Samples by listing and epoch; the same listing in the same epoch gives the same sample, whoever asks.

    A photo that cannot be decoded counts as missing; reading the listings has reported it.
    """

    def __init__(self, items: Sequence[Item], labels: NDArray[np.int64], spec: EncoderSpec, config: TrainingConfig) -> None:
        """Takes listings and their groups as numbers from 0."""
        self.items, self.labels, self.spec, self.config = items, labels, spec, config
        self.photos = PhotoAugmentation(strength=config.augment_photos)
        self.titles = TitleAugmentation(strength=config.augment_titles)
        self.limits = InputLimits()
        self.backgrounds = self._backgrounds() if spec.image and config.augment_photos else []

    def __len__(self) -> int:
        """Listings."""
        return len(self.items)

    def __getitem__(self, visit: Visit) -> Sample:
        """Returns the sample of `(listing, epoch)`."""
        number, epoch = visit
        random = np.random.default_rng([self.config.seed, epoch, number])
        item = self.items[number]
        pixels = self._pixels(item, random)
        title = augment_title(item.title, self.titles, random) if self.spec.title and item.title else None
        show_photo, show_title = pixels is not None, title is not None
        if show_photo and show_title and random.random() < self.config.modality_dropout:
            show_photo = bool(random.integers(2))
            show_title = not show_photo
        return Sample(number, int(self.labels[number]), pixels, title, show_photo, show_title)

    def plain(self, number: int) -> Sample:
        """Returns a listing without any change, as when serving."""
        item = self.items[number]
        pixels = self._pixels(item, None)
        title = item.title if self.spec.title else None
        return Sample(number, int(self.labels[number]), pixels, title, pixels is not None, title is not None)

    def _pixels(self, item: Item, random: np.random.Generator | None) -> Pixels | None:
        if self.spec.image is None or item.photo is None:
            return None
        try:
            image = open_image(item.photo.read(), self.limits)
        except AppError:
            return None
        if random is not None:
            image = augment(image, self.photos, random, self.backgrounds)
        return frame(image, self.spec.image.preprocessing)

    def _backgrounds(self) -> list[Image.Image]:
        with_photo = [item for item in self.items if item.photo is not None]
        random = np.random.default_rng(self.config.seed)
        found = []
        for number in random.permutation(len(with_photo))[:BACKGROUNDS]:
            photo = with_photo[number].photo
            try:
                image = open_image(photo.read(), self.limits) if photo else None
            except AppError:
                continue
            if image is not None:
                image.thumbnail((_BACKGROUND_SIDE_PX, _BACKGROUND_SIDE_PX))
                found.append(image)
        return found


class Collate:
    """Samples -> one batch. An object and not a closure, so that worker processes can be started anew with it."""

    def __init__(self, tokens: TitleTokens | None) -> None:
        """Takes the tokenizer of the title tower, None without one."""
        self.tokens = tokens

    def __call__(self, samples: Sequence[Sample]) -> Batch:
        """Puts samples together."""
        with_photo = [n for n, sample in enumerate(samples) if sample.pixels is not None]
        with_title = [n for n, sample in enumerate(samples) if sample.title is not None]
        pixels = None
        if with_photo:
            stacked = np.stack([sample.pixels for sample in samples if sample.pixels is not None])
            pixels = torch.from_numpy(stacked).permute(0, 3, 1, 2)
        titles = [sample.title for sample in samples if sample.title is not None]
        return Batch(
            labels=torch.tensor([sample.label for sample in samples]),
            pixels=pixels,
            with_photo=torch.tensor(with_photo, dtype=torch.long),
            titles=self.tokens(titles) if self.tokens and titles else None,
            with_title=torch.tensor(with_title, dtype=torch.long),
            show_photo=torch.tensor([float(sample.show_photo) for sample in samples]),
            show_title=torch.tensor([float(sample.show_title) for sample in samples]),
            numbers=torch.tensor([sample.number for sample in samples]),
        )
