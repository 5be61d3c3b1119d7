"""Word embeddings in 8 bits: a quarter of the bytes of the largest table of a multilingual transformer."""

from __future__ import annotations

import torch
from torch import Tensor

SCALE = ".scale"


def quantised(name: str, table: Tensor) -> dict[str, Tensor]:
    """Returns a table as int8 with one float32 scale per row, symmetric: `row = int8 * scale`, error at most scale / 2.

    Args:
        name: of the table among the tower's weights.
        table: `(rows, width)`.
    """
    wide = table.float()
    scale = wide.abs().amax(dim=1, keepdim=True).clamp(min=1e-12) / 127
    return {name: (wide / scale).round().to(torch.int8), name + SCALE: scale}


def dequantised(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Returns a tower's weights in float32, whatever they were stored in."""
    scales = {name.removesuffix(SCALE): tensor for name, tensor in weights.items() if name.endswith(SCALE)}
    wide = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in weights.items()}
    for name, scale in scales.items():
        del wide[name + SCALE]
        wide[name] = wide[name].float() * scale.float()
    return wide
