"""How much of each colour a photo shows where the backbone looks: what the last maps of a classifier have forgotten.

Colour siblings of one garment are different products, but a backbone that was trained to name things gives them nearly the
same maps. A histogram knows them apart. Weighted by the energy of the last maps it counts the thing and not the studio's
white or the shop's shelf, and its square root makes an inner product of two of them their Bhattacharyya coefficient.
Histograms as signatures: Swain and Ballard, "Color Indexing", IJCV 1991; the root: Arandjelovic and Zisserman,
"Three things everyone should know to improve object retrieval", CVPR 2012.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional

LIGHTNESS, GREEN_RED, BLUE_YELLOW = 6, 11, 11
WIDTH = LIGHTNESS * GREEN_RED * BLUE_YELLOW
_RANGES = ((LIGHTNESS, 0.0, 1.0), (GREEN_RED, -0.6, 0.6), (BLUE_YELLOW, -0.6, 0.6))
_SPREAD = 0.7  # of a Gaussian around each bin's centre, in bins: light that changes a little moves little
_SIDE_PX = 56
# linear sRGB to CIE XYZ, each row divided by the white point D65
_TO_XYZ = ((0.43391, 0.37622, 0.18990), (0.21260, 0.71520, 0.07220), (0.01772, 0.10946, 0.87282))


def colour_histogram(photos: Tensor, maps: Tensor) -> Tensor:
    """Returns the square root of each photo's share of pixels by colour, softly counted in CIELAB.

    Args:
        photos: `(n, 3, side, side)` RGB in [0, 1].
        maps: `(n, channels, h, w)`, the backbone's last maps; their energy is the weight of a pixel.

    Returns:
        `(n, WIDTH)` float32 unit rows.
    """
    # three digits of bfloat16 are less than a bin: float32, whatever the precision around
    with torch.autocast(photos.device.type, enabled=False):
        small = _smaller(photos.float())
        energy = maps.detach().float().square().mean(1, keepdim=True)
        weights = functional.interpolate(energy, size=small.shape[2:], mode="bilinear").flatten(1) + 1e-6
        weights = weights / weights.sum(1, keepdim=True)
        light, across, along = (
            _soft(channel, *how) for channel, how in zip(_lab(small).unbind(1), _RANGES, strict=True)
        )  # fmt: skip
        # of three factors per pixel the two smaller ones are multiplied first
        shades = ((light * weights[:, :, None])[:, :, :, None] * across[:, :, None, :]).flatten(2)
        return torch.bmm(shades.transpose(1, 2), along).flatten(1).sqrt()


def _smaller(photos: Tensor) -> Tensor:
    """Returns `(n, 3, _SIDE_PX, _SIDE_PX)`; where all means are of equal squares, engines are told so: it is quicker."""
    if photos.shape[2] == photos.shape[3] and photos.shape[3] % _SIDE_PX == 0:
        return functional.avg_pool2d(photos, photos.shape[3] // _SIDE_PX)
    return functional.adaptive_avg_pool2d(photos, _SIDE_PX)


def _lab(photos: Tensor) -> Tensor:
    """`(n, 3, h, w)` sRGB -> `(n, 3, pixels)` CIELAB, a hundredth of its usual scale."""
    values = photos.flatten(2).clamp(0, 1)
    linear = torch.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    xyz = torch.einsum("ij,njp->nip", _to_xyz(linear.device), linear)
    x, y, z = torch.where(xyz > 0.008856, xyz.clamp(min=1e-8) ** (1 / 3), 7.787 * xyz + 16 / 116).unbind(1)
    return torch.stack([1.16 * y - 0.16, 5 * (x - y), 2 * (y - z)], dim=1)


@lru_cache
def _to_xyz(device: torch.device) -> Tensor:
    """Copied to a device once: a CUDA graph cannot be captured while something is copied from ordinary memory."""
    with torch.inference_mode(False):  # training reads it too
        return torch.tensor(_TO_XYZ, device=device)


def _soft(values: Tensor, bins: int, low: float, high: float) -> Tensor:
    """`(n, pixels)` -> `(n, pixels, bins)` that add up to 1."""
    centres = torch.linspace(low, high, bins, device=values.device)
    near = torch.exp(-(((values[:, :, None] - centres) / (_SPREAD * (high - low) / (bins - 1))) ** 2)) + 1e-12
    return near / near.sum(2, keepdim=True)
