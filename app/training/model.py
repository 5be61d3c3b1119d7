"""The model while it is trained: towers, batch normalisation, and the heads that are thrown away afterwards."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from app.core.spec import EncoderSpec
from app.encoders.image import ImageTower
from app.encoders.title import TitleBatch, TitleTower
from app.training.arcface import ArcFaceHead, make_head, margin_shares
from app.training.config import TrainingConfig

T = TypeVar("T", ImageTower, TitleTower)


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch of `n` listings.

    Attributes:
        labels: `(n,)` int64, the group.
        pixels: `(p, 3, size, size)` uint8 of the listings with a photo; None if there are none.
        with_photo: `(p,)` int64, which listings those are.
        titles: of the listings with a title; None if there are none.
        with_title: `(t,)` int64, which listings those are.
        show_photo, show_title: `(n,)` float32, 0 where the fused head sees zeros in that half (missing, or dropped).
        numbers: `(n,)` int64, which listings these are, counted over the whole data.
        teacher_photo, teacher_title: `(p, features)` and `(t, features)` to stay close to, if the run distils.
    """

    labels: Tensor
    pixels: Tensor | None
    with_photo: Tensor
    titles: TitleBatch | None
    with_title: Tensor
    show_photo: Tensor
    show_title: Tensor
    numbers: Tensor
    teacher_photo: Tensor | None = None
    teacher_title: Tensor | None = None

    def to(self, device: torch.device) -> Batch:
        """Returns the batch on a device."""
        return Batch(
            self.labels.to(device), self.pixels.to(device) if self.pixels is not None else None,
            self.with_photo.to(device), self.titles.to(device) if self.titles else None, self.with_title.to(device),
            self.show_photo.to(device), self.show_title.to(device), self.numbers, self.teacher_photo, self.teacher_title,
        )  # fmt: skip


class NormalisedTower(nn.Module, Generic[T]):
    """A tower whose projection is followed by batch normalisation, as long as it is trained.

    The normalisation starts as the identity on the data that `begin` is given, so that training starts from the geometry
    of the pretrained features; `folded` returns the projection with the normalisation worked in, for serving.
    """

    def __init__(self, tower: T) -> None:
        super().__init__()
        self.tower: T = tower
        self.norm = nn.BatchNorm1d(self.projection.out_features)

    @property
    def projection(self) -> nn.Linear:
        """The tower's."""
        if not isinstance(self.tower.projection, nn.Linear):
            raise ValueError("a tower that is trained has a projection")
        return self.tower.projection

    @torch.no_grad()
    def begin(self, features: Tensor) -> None:
        """Sets mean and variance from `(n, features)` pooled features, n > 1, and scale and shift to undo them."""
        projected = self.projection(features.float())
        mean, variance = projected.mean(0), projected.var(0)
        _buffer(self.norm.running_mean).copy_(mean)
        _buffer(self.norm.running_var).copy_(variance)
        self.norm.weight.copy_((variance + self.norm.eps).sqrt())
        self.norm.bias.copy_(mean)

    def forward(self, features: Tensor) -> Tensor:
        """`(n, features)` pooled features -> `(n, dim)` float32, of any length."""
        with torch.autocast(features.device.type, enabled=False):
            norm, projected = self.norm, self.projection(features.float())
            if len(projected) > 1:
                normed: Tensor = norm(projected)
                return normed
            # one row has no variance: it is normalised as in evaluation
            return functional.batch_norm(
                projected, norm.running_mean, norm.running_var, norm.weight, norm.bias, training=False, eps=norm.eps
            )

    @torch.no_grad()
    def folded(self) -> nn.Linear:
        """Returns one linear layer that does what projection and normalisation do in evaluation."""
        norm, linear = self.norm, self.projection
        gain = norm.weight / (_buffer(norm.running_var) + norm.eps).sqrt()
        out = nn.Linear(linear.in_features, linear.out_features)
        out.weight.copy_(linear.weight * gain[:, None])
        out.bias.copy_((linear.bias - _buffer(norm.running_mean)) * gain + norm.bias)
        return out


def _buffer(tensor: Tensor | None) -> Tensor:
    if tensor is None:
        raise ValueError("this normalisation keeps no statistics")
    return tensor


class TrainingModel(nn.Module):
    """Batches of listings -> the loss of every head, by name."""

    image_share: Tensor

    def __init__(
        self, spec: EncoderSpec, image: ImageTower | None, title: TitleTower | None, groups: int, config: TrainingConfig
    ) -> None:
        """Puts heads on towers.

        Args:
            spec: of the bundle to be.
            image: tower with a projection; None for none.
            title: likewise; one of them is there.
            groups: in training.
            config: of the run.
        """
        super().__init__()
        self.spec, self.config = spec, config
        self.image = NormalisedTower(image) if image else None
        self.title = NormalisedTower(title) if title else None
        self.register_buffer("image_share", torch.tensor(spec.fusion.weight))  # of the photo's half, for concat-norm
        self.dims = {"image": image.spec.own_dim if image else 0, "title": title.spec.own_dim if title else 0}
        fused = (image.spec.dim if image else 0) + (title.spec.dim if title else 0)
        dims = {name: dim for name, dim in self.dims.items() if dim}
        if fused not in dims.values():  # a fused head says something that the tower's own does not
            dims["fused"] = fused
        self.heads = nn.ModuleDict(
            {
                name: make_head(config.head, dim, groups, config.margin_start, config.scale, config.centres)
                for name, dim in dims.items()
            }
        )

    def set_margin(self, margin: float) -> None:
        """Sets the margin of all heads, in radians."""
        for head in self.arcface_heads().values():
            head.margin = margin

    def set_sizes(self, sizes: Tensor) -> None:
        """Tells all heads how many listings each group has, `(groups,)`: its margin may follow from that."""
        shares = margin_shares(sizes, self.config.margin, self.config.margin_fall)
        for head in self.arcface_heads().values():
            head.shares.copy_(shares)

    def arcface_heads(self) -> dict[str, ArcFaceHead]:
        """Returns the heads by name."""
        return {name: head for name, head in self.heads.items() if isinstance(head, ArcFaceHead)}

    def features(self, batch: Batch) -> tuple[Tensor | None, Tensor | None]:
        """Returns the pooled features of photos and of titles."""
        photos = titles = None
        if self.image is not None and batch.pixels is not None:
            photos = self.image.tower.features(batch.pixels)
        if self.title is not None and batch.titles is not None:
            titles = self.title.tower.features(batch.titles)
        return photos, titles

    def embed(self, batch: Batch, photos: Tensor | None, titles: Tensor | None) -> dict[str, Tensor]:
        """Returns `image` and `title` (the backbones' own parts, rows of listings that have them) and `fused`, all rows."""
        n, found = len(batch.labels), {}
        halves = []
        if self.image is not None:
            half = torch.zeros(n, self.dims["image"], device=batch.labels.device)
            if photos is not None:
                found["image"] = self.image(photos)
                half = half.index_copy(0, batch.with_photo, self._side(found["image"]))
            weight = self.spec.fusion.weight if self.title is not None else 1.0
            halves.append(half * (batch.show_photo * weight**0.5)[:, None])
        if self.title is not None:
            half = torch.zeros(n, self.title.tower.spec.dim, device=batch.labels.device)
            if titles is not None and batch.titles is not None:
                found["title"] = self.title(titles)
                half = half.index_copy(0, batch.with_title, self._title_side(found["title"], batch.titles))
            weight = 1 - self.spec.fusion.weight if self.image is not None else 1.0
            halves.append(half * (batch.show_title * weight**0.5)[:, None])
        found["fused"] = torch.cat(halves, dim=1)
        if self.training and len(halves) == 2:
            energy = [half.detach().square().sum() for half in halves]
            self.image_share.lerp_(energy[0] / (energy[0] + energy[1]).clamp(min=1e-9), 0.01)
        return found

    def _side(self, own: Tensor) -> Tensor:
        return own if self.config.fusion == "concat-norm" else functional.normalize(own)

    def _title_side(self, own: Tensor, titles: TitleBatch) -> Tensor:
        tower = self.title.tower if self.title is not None else None
        if not isinstance(tower, TitleTower) or tower.ngrams is None or titles.ngrams is None:
            return self._side(own)
        joined = tower.join(functional.normalize(own), tower.ngrams(titles.ngrams))
        return joined * own.norm(dim=1, keepdim=True) if self.config.fusion == "concat-norm" else joined

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Returns the mean loss of each head that has something to see."""
        photos, titles = self.features(batch)
        embedded = self.embed(batch, photos, titles)
        rows = {"image": batch.with_photo, "title": batch.with_title}
        losses = {}
        for name, head in self.heads.items():
            if name in embedded:
                labels = batch.labels[rows[name]] if name in rows else batch.labels
                losses[name] = head(embedded[name], labels)
        for name, own, wanted in (("photo", photos, batch.teacher_photo), ("title", titles, batch.teacher_title)):
            if own is not None and wanted is not None:
                losses[f"distil_{name}"] = self.config.distil * distance(own, wanted)
        return losses


def distance(own: Tensor, wanted: Tensor) -> Tensor:
    """Returns the mean over rows of `1 - cosine` between two `(n, features)` arrays, centred on the wanted batch."""
    mean = wanted.mean(0)
    return (1 - functional.cosine_similarity(own.float() - mean, wanted - mean)).mean()
