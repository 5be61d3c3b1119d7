"""The image tower: a timm backbone, pooling, a projection, L2."""

from __future__ import annotations

from typing import Any, cast

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional

from app.core.spec import ImageSpec
from app.errors import InvalidInput


class ImageTower(nn.Module):
    """`(n, 3, size, size)` uint8 pixels -> `(n, dim)` float32 unit vectors.

    GeM pooling: Radenovic et al., "Fine-tuning CNN Image Retrieval with No Human Annotation", arXiv 1711.02512.
    """

    def __init__(self, spec: ImageSpec) -> None:
        super().__init__()
        self.spec = spec
        self.backbone = timm.create_model(spec.architecture, pretrained=False, num_classes=0, global_pool="")
        self.projection = nn.Linear(spec.features, spec.dim) if spec.projection else nn.Identity()
        self.mean = _channels(spec.preprocessing.mean)
        self.std = _channels(spec.preprocessing.std)

    def features(self, pixels: Tensor) -> Tensor:
        """Returns pooled backbone features, `(n, features)`, before projection and normalisation."""
        return pooled_features(self.backbone, (pixels.float() - self.mean) / self.std, self.spec)

    def forward(self, pixels: Tensor) -> Tensor:
        """See the class."""
        return functional.normalize(self.projection(self.features(pixels)).float(), dim=-1)


def _channels(values: tuple[float, float, float]) -> nn.Buffer:
    return nn.Buffer(torch.tensor(values).view(1, 3, 1, 1) * 255, persistent=False)


def pooled_features(backbone: nn.Module, inputs: Tensor, spec: ImageSpec) -> Tensor:
    """Returns `(n, features)` of normalised inputs `(n, 3, size, size)`: last maps pooled, early stages' statistics."""
    if not spec.stages:
        return pool(backbone(inputs), spec.features, spec.pooling, spec.gem_power)
    last, early = backbone.forward_intermediates(inputs, indices=list(spec.stages))  # type: ignore[operator]
    last = backbone.forward_head(last)  # type: ignore[operator]  # some families have a layer there: MobileNetV3
    statistics = [part for maps in early for part in (maps.float().mean((2, 3)), maps.float().std((2, 3)))]
    own = spec.features - stage_width(backbone, spec.stages)
    return torch.cat([pool(last, own, spec.pooling, spec.gem_power), *statistics], dim=1)


def stage_width(backbone: nn.Module, stages: tuple[int, ...]) -> int:
    """Returns how many features the statistics of these stages are; a mean and a standard deviation per channel.

    Raises:
        InvalidInput: the backbone has no such stages.
    """
    levels = cast("Any", getattr(backbone, "feature_info", []))
    if stages and (not hasattr(backbone, "forward_intermediates") or max(stages) >= len(levels)):
        raise InvalidInput(f"this image encoder has the stages 0 to {len(levels) - 1}, not {stages}: name others, or none.")
    return sum(2 * int(levels[stage]["num_chs"]) for stage in stages)


def pool(maps: Tensor, features: int, how: str, power: float) -> Tensor:
    """Pools backbone output to `(n, features)`: maps `(n, c, h, w)` or `(n, h, w, c)`, tokens `(n, t, c)`, or pooled."""
    maps = maps.float()
    if maps.ndim == 2:
        return maps
    if maps.ndim == 4 and maps.shape[1] != features:  # Swin and its like
        maps = maps.permute(0, 3, 1, 2)
    dims = (2, 3) if maps.ndim == 4 else (1,)
    if how == "avg":
        return maps.mean(dims)
    return maps.clamp(min=1e-6).pow(power).mean(dims).pow(1 / power)
