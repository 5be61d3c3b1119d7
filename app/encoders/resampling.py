"""Pillow's `resize` for many photos at once on a device, pixel for pixel.

A resized row is a product of the row with a matrix of few weights a line, so a batch of photos takes two batched matrix
products. Pillow rounds its weights to 22 binary digits behind the point and what they add up to, after each direction, to
8 bits. Both are repeated here in whole numbers: the weights are split in two halves of 11 digits, whose sums fit into
float32 without rounding.

Weights: the convolution kernels of Keys, "Cubic convolution interpolation for digital image processing" (1981), with
a = -1/2, and of Lanczos with three lobes, stretched where the photo shrinks, as in Pillow's `Resample.c`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

_DIGITS = 22
_LOW = 11


@dataclass(frozen=True, slots=True)
class Kernel:
    """Weights by distance in pixels, 0 from `reach` on."""

    weights: Callable[[Tensor], Tensor]
    reach: float


def _cubic(distance: Tensor) -> Tensor:
    x = distance.abs()
    near = (1.5 * x - 2.5) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * -0.5
    return torch.where(x < 1, near, torch.where(x < 2, far, 0.0))


def _lanczos(distance: Tensor) -> Tensor:
    return torch.where(distance.abs() < 3, torch.sinc(distance) * torch.sinc(distance / 3), 0.0)


BICUBIC = Kernel(_cubic, 2.0)
LANCZOS = Kernel(_lanczos, 3.0)


def resized(photos: Tensor, sides: Tensor, boxes: Tensor, size: int, kernel: Kernel) -> Tensor:
    """Returns what `Image.resize((size, size), kernel, box)` makes of each photo.

    Args:
        photos: `(n, height, width, channels)` uint8; each photo fills its upper left corner.
        sides: `(n, 2)` int64, height and width of each photo.
        boxes: `(n, 4)` float32 within each photo: left, upper, right, lower.
        size: of the result, in pixels.
        kernel: `BICUBIC` or `LANCZOS`.

    Returns:
        `(n, size, size, channels)` uint8.
    """
    n, height, width, channels = photos.shape
    across = _weights(width, sides[:, 1], boxes[:, 0], boxes[:, 2], size, kernel)
    down = _weights(height, sides[:, 0], boxes[:, 1], boxes[:, 3], size, kernel)
    # Pillow goes across first: (n, height * channels, width) @ (n, width, size)
    lines = photos.permute(0, 1, 3, 2).reshape(n, height * channels, width).float()
    narrow = _summed(lambda part: lines @ part.transpose(1, 2), across)
    columns = narrow.view(n, height, channels * size)
    whole = _summed(lambda part: part @ columns, down)
    return whole.view(n, size, channels, size).permute(0, 1, 3, 2).to(torch.uint8)


def _summed(product: Callable[[Tensor], Tensor], weights: Tensor) -> Tensor:
    """Returns products with whole weights, rounded to pixels in [0, 255] as float32."""
    high = weights >> _LOW  # rounds down, so that the rest is never negative
    rest = weights - (high << _LOW)
    total = (product(high.float()).to(torch.int32) << _LOW) + product(rest.float()).to(torch.int32)
    return ((total + (1 << (_DIGITS - 1))) >> _DIGITS).clamp_(0, 255).float()


def _weights(length: int, sides: Tensor, starts: Tensor, ends: Tensor, size: int, kernel: Kernel) -> Tensor:
    """Returns `(n, size, length)` int32 weights in units of 2^-22, for one direction.

    Args:
        length: of the padded photos.
        sides: `(n,)`, of the photos themselves: what lies beyond is not there.
        starts: `(n,)` of the boxes.
        ends: `(n,)` of the boxes.
        size: of the result.
        kernel: which weights.
    """
    scale = (ends - starts).double() / size  # Pillow, too, subtracts in float32 and goes on in float64
    stretch = scale.clamp(min=1.0)
    reach = (kernel.reach * stretch)[:, None]
    centres = starts[:, None] + (torch.arange(size, device=starts.device) + 0.5) * scale[:, None]  # (n, size)
    first = (centres - reach + 0.5).clamp(min=0).floor()[..., None]
    end = torch.minimum((centres + reach + 0.5).floor(), sides[:, None])[..., None]
    places = torch.arange(length, device=starts.device, dtype=torch.float64)
    found = kernel.weights((places - centres[..., None] + 0.5) / stretch[:, None, None])
    found = torch.where((places >= first) & (places < end), found, 0.0)
    found = found / found.sum(2, keepdim=True) * (1 << _DIGITS)
    return (found + torch.where(found < 0, -0.5, 0.5)).trunc().to(torch.int32)
