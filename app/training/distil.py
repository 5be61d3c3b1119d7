"""Holding on to what the pretrained towers knew: the features they gave, as a target beside the heads' loss.

The target is that of the unchanged listing, whatever was done to the photo or the title that the model sees: so the model
learns to ignore edits, and does not forget what the training data lacks. Hinton et al., "Distilling the Knowledge in a
Neural Network", arXiv 1503.02531.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from app.training.model import Batch
from app.training.start import PooledFeatures


@dataclass(frozen=True, slots=True)
class Teacher:
    """Pooled features by number of the listing: `(listings, features)` float32, zeros where it has none; None: no tower."""

    photo: Tensor | None
    title: Tensor | None

    def joined_to(self, batch: Batch) -> Batch:
        """Returns the batch with the features of its listings, on its device."""
        device = batch.labels.device
        photo = title = None
        if self.photo is not None and batch.pixels is not None:
            photo = self.photo[batch.numbers[batch.with_photo.cpu()]].to(device)
        if self.title is not None and batch.titles is not None:
            title = self.title[batch.numbers[batch.with_title.cpu()]].to(device)
        return replace(batch, teacher_photo=photo, teacher_title=title)


def teacher_from(features: PooledFeatures, listings: int) -> Teacher:
    """Arranges features by the number of the listing."""
    photo = title = None
    if len(features.with_photo):
        photo = torch.zeros(listings, features.image.shape[1])
        photo[torch.from_numpy(features.with_photo)] = features.image
    if len(features.with_title):
        title = torch.zeros(listings, features.title.shape[1])
        title[torch.from_numpy(features.with_title)] = features.title
    return Teacher(photo, title)
