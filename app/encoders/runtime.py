"""Which device runs the towers, and how."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal

import torch

from app.errors import NotReady

DeviceName = Literal["auto", "cuda", "cpu"]


@dataclass(frozen=True, slots=True)
class Runtime:
    """A device and its arithmetic: bfloat16 on a GPU, float32 on a CPU."""

    device: torch.device

    @property
    def name(self) -> str:
        """`cuda bf16` or `cpu fp32`, for people."""
        return "cuda bf16" if self.device.type == "cuda" else "cpu fp32"

    def autocast(self) -> AbstractContextManager[object]:
        """The arithmetic of a forward pass."""
        if self.device.type == "cuda":
            return torch.autocast("cuda", dtype=torch.bfloat16)
        return nullcontext()

    def place(self, module: torch.nn.Module) -> torch.nn.Module:
        """Moves a tower to the device, in evaluation mode and without gradients."""
        placed = module.eval().requires_grad_(False).to(self.device)
        return placed.to(memory_format=torch.channels_last) if self.device.type == "cuda" else placed


def choose(device: DeviceName) -> Runtime:
    """Returns the runtime for `auto` (a GPU if there is one), `cuda` or `cpu`.

    Raises:
        NotReady: `cuda` was asked for and there is none.
    """
    available = torch.cuda.is_available()
    if device == "cuda" and not available:
        raise NotReady("DEVICE=cuda, but PyTorch sees no GPU: check the driver, or set DEVICE=auto or DEVICE=cpu.")
    return Runtime(torch.device("cuda" if available and device != "cpu" else "cpu"))
