"""Which device and which engine run the towers, and how."""

from __future__ import annotations

import importlib.util
import logging
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from app.errors import NotReady

DeviceName = Literal["auto", "cuda", "cpu"]
EngineName = Literal["auto", "torch", "openvino"]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Runtime:
    """A device and its arithmetic: half precision on a GPU, float32 on a CPU.

    Attributes:
        device: where the towers run.
        engine: what runs them; OpenVINO on a CPU only.
        threads: how many OpenVINO may use; PyTorch keeps its own count.
    """

    device: torch.device
    engine: Literal["torch", "openvino"] = "torch"
    threads: int = 0

    @property
    def streams(self) -> int:
        """So many calls of the towers at the same time are done sooner than one after the other.

        Two where OpenVINO has threads for them: two calls on a core each are done sooner than one after the other on both,
        whose threads wait for each other at every layer. PyTorch's threads do so, and a GPU has one line of work.
        """
        return min(2, self.threads) if self.engine == "openvino" else 1

    @property
    def name(self) -> str:
        """`cuda fp16`, `cpu fp32` or `cpu fp32 openvino`, for people."""
        if self.device.type == "cuda":
            return "cuda fp16"
        return "cpu fp32" if self.engine == "torch" else "cpu fp32 openvino"

    @property
    def batch(self) -> int:
        """Photos or titles that the towers take at once: a GPU has to be filled, a CPU has nothing of it."""
        return 256 if self.device.type == "cuda" else 32

    def host(self, shape: tuple[int, ...]) -> Tensor:
        """Returns uint8 memory to fill for the device; a GPU fetches from such while the program goes on."""
        return torch.empty(shape, dtype=torch.uint8, pin_memory=self.device.type == "cuda")

    def memory_bytes(self) -> dict[str, int]:
        """Returns the memory of the GPU: `total`, `free`, and `reserved` by this process; empty on a CPU."""
        if self.device.type != "cuda":
            return {}
        free, total = torch.cuda.mem_get_info(self.device)
        return {"total": total, "free": free, "reserved": torch.cuda.memory_reserved(self.device)}

    def autocast(self) -> AbstractContextManager[object]:
        """The arithmetic of a forward pass of training's first steps."""
        if self.device.type == "cuda":
            return torch.autocast("cuda", dtype=torch.bfloat16)
        return nullcontext()

    def place(self, module: torch.nn.Module) -> torch.nn.Module:
        """Moves a tower to the device, in evaluation mode and without gradients."""
        placed = module.eval().requires_grad_(False).to(self.device)
        return placed.to(memory_format=torch.channels_last) if self.device.type == "cuda" else placed


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """Returns a tensor on a device; on the way to a GPU nobody waits for it."""
    if device.type != "cuda":
        return tensor.to(device)
    return (tensor if tensor.is_pinned() else tensor.pin_memory()).to(device, non_blocking=True)


def choose(device: DeviceName, engine: EngineName = "torch", threads: int = 0) -> Runtime:
    """Returns the runtime for a device and an engine.

    Args:
        device: `auto` (a GPU if there is one), `cuda` or `cpu`.
        engine: `auto` is OpenVINO where it is installed and the device is a CPU, else PyTorch. `openvino` makes
            `auto` of the device mean the CPU.
        threads: of the towers on a CPU; 0 leaves it to PyTorch, which asks `OMP_NUM_THREADS` and counts cores.

    Raises:
        NotReady: what was asked for is not there, or does not go together.
    """
    available = torch.cuda.is_available()
    if device == "cuda" and not available:
        raise NotReady("DEVICE=cuda, but PyTorch sees no GPU: check the driver, or set DEVICE=auto or DEVICE=cpu.")
    if device == "cuda" and engine == "openvino":
        raise NotReady("ENGINE=openvino runs on CPUs: set DEVICE=cpu, or ENGINE=auto for the GPU.")
    if threads:
        torch.set_num_threads(threads)
    if device == "cuda" or (available and device == "auto" and engine != "openvino"):
        return Runtime(torch.device("cuda"))
    cpu = torch.device("cpu")
    if engine == "torch":
        return Runtime(cpu)
    if importlib.util.find_spec("openvino") is not None:
        return Runtime(cpu, "openvino", torch.get_num_threads())
    if engine == "openvino":
        raise NotReady("ENGINE=openvino, but OpenVINO is not installed: install the extra 'cpu', or set ENGINE=auto.")
    log.info("towers run in PyTorch, several times slower than in OpenVINO, which is not installed (extra 'cpu')")
    return Runtime(cpu)
