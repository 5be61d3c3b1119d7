"""Weights in 8 bits: a quarter of the bytes, of the largest table of a multilingual transformer or of a whole tower."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

SCALE = ".scale"
Precision = Literal["fp32", "fp16", "int8"]  # how weights are stored; towers compute in float32 either way


def quantised(name: str, table: Tensor) -> dict[str, Tensor]:
    """Returns a table as int8 with one float32 scale per row, symmetric: `row = int8 * scale`, error at most scale / 2.

    Args:
        name: of the table among the tower's weights.
        table: `(rows, ...)`: words, the outputs of a matrix or the output channels of a convolution.
    """
    wide = table.float()
    scale = wide.abs().amax(dim=tuple(range(1, wide.ndim)), keepdim=True).clamp(min=1e-12) / 127
    return {name: (wide / scale).round().to(torch.int8), name + SCALE: scale}


def stored_as(weights: dict[str, Tensor], precision: Precision, narrow: Collection[str] = ()) -> dict[str, Tensor]:
    """Returns a tower's weights as they are written to a file.

    Args:
        weights: by name, in float32.
        precision: `int8` stores matrices and convolutions in 8 bits with a scale per output, and the rest in float16.
        narrow: tables that are stored in 8 bits whatever the precision.
    """
    wanted = torch.float32 if precision == "fp32" else torch.float16
    found = {name: t.to(wanted) if t.is_floating_point() else t for name, t in weights.items()}
    for name, tensor in weights.items():
        if name in narrow or (precision == "int8" and tensor.is_floating_point() and tensor.ndim > 1):
            found |= quantised(name, tensor)
    return {name: tensor.contiguous() for name, tensor in found.items()}


def dequantised(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Returns a tower's weights in float32, whatever they were stored in."""
    scales = {name.removesuffix(SCALE): tensor for name, tensor in weights.items() if name.endswith(SCALE)}
    wide = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in weights.items()}
    for name, scale in scales.items():
        del wide[name + SCALE]
        wide[name] = wide[name].float() * scale.float()
    return wide


class QuantisedWords(nn.Module):
    """A transformer's table of words as it is stored, in 8 bits: each word becomes a float only when it is looked up."""

    def __init__(self, table: Tensor, scale: Tensor) -> None:
        super().__init__()
        self.table, self.scale = nn.Buffer(table), nn.Buffer(scale)

    def forward(self, ids: Tensor) -> Tensor:
        """`(n, tokens)` ids -> `(n, tokens, width)` in the precision of the scales, float32 unless they were converted."""
        scales = functional.embedding(ids, self.scale)
        return functional.embedding(ids, self.table).to(scales.dtype) * scales

    @classmethod
    def replace(cls, backbone: nn.Module) -> bool:
        """Puts one in the place of a transformer's words; False, and nothing done, if its words do not come from 8 bits."""
        model = cast("Any", backbone)
        words = model.get_input_embeddings().weight.detach()
        stored = quantised("words", words)
        table, scale = stored["words"], stored["words" + SCALE]
        if not torch.allclose(table.float() * scale, words, rtol=1e-5, atol=0):
            return False
        model.set_input_embeddings(cls(table, scale))
        return True
