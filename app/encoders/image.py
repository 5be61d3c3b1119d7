"""The image tower: a timm backbone, pooling, a projection, L2."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from app.core.spec import ImageSpec
from app.encoders.colours import WIDTH, colour_histogram


class ImageTower(nn.Module):
    """`(n, 3, size, size)` uint8 pixels -> `(n, dim)` float32 unit vectors.

    GeM pooling: Radenovic et al., "Fine-tuning CNN Image Retrieval with No Human Annotation", arXiv 1711.02512.
    """

    def __init__(self, spec: ImageSpec) -> None:
        import timm  # takes seconds, and a tower that was converted for another engine does without

        super().__init__()
        self.spec = spec
        self.backbone = timm.create_model(spec.architecture, pretrained=False, num_classes=0, global_pool="")
        self.projection = nn.Linear(spec.features, spec.dim) if spec.projection else nn.Identity()
        self.mean = _channels(spec.preprocessing.mean)
        self.std = _channels(spec.preprocessing.std)
        self._precision = torch.float32

    def narrow(self, precision: torch.dtype) -> None:
        """Lets the backbone compute in `precision`, up to its last maps; what is made of them stays in float32."""
        self.backbone.to(precision)
        self._precision = precision

    def features(self, pixels: Tensor) -> Tensor:
        """Returns pooled backbone features, `(n, features)`, before projection and normalisation."""
        maps = self.backbone(((pixels.float() - self.mean) / self.std).to(self._precision))
        own = self.spec.features - (WIDTH if self.spec.colours else 0)
        pooled = pool(maps, own, self.spec.pooling, self.spec.gem_power)
        if not self.spec.colours:
            return pooled
        return torch.cat([pooled, colour_histogram(pixels / 255, spatial(maps, own))], dim=1)

    def forward(self, pixels: Tensor) -> Tensor:
        """See the class."""
        return functional.normalize(self.projection(self.features(pixels)).float(), dim=-1)


def _channels(values: tuple[float, float, float]) -> nn.Buffer:
    return nn.Buffer(torch.tensor(values).view(1, 3, 1, 1) * 255, persistent=False)


def pool(maps: Tensor, features: int, how: str, power: float) -> Tensor:
    """Pools backbone output to `(n, features)`: maps `(n, c, h, w)` or `(n, h, w, c)`, tokens `(n, t, c)`, or pooled."""
    maps = maps.float()
    if maps.ndim == 2:
        return maps
    if maps.ndim == 4:
        maps = spatial(maps, features)
    dims = (2, 3) if maps.ndim == 4 else (1,)
    if how == "avg":
        return maps.mean(dims)
    return maps.clamp(min=1e-6).pow(power).mean(dims).pow(1 / power)


def spatial(maps: Tensor, features: int) -> Tensor:
    """Returns backbone output as `(n, features, h, w)` maps; a single one of ones where it has no places."""
    if maps.ndim != 4:
        return torch.ones(len(maps), 1, 1, 1, device=maps.device)
    return maps if maps.shape[1] == features else maps.permute(0, 3, 1, 2)  # Swin and its like
