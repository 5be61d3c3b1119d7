"""Checkpoints: one safetensors file that is always whole, with everything that a run needs to go on exactly.

Weights that do not change (frozen ones) are left out: they come from the encoders that the run starts from.
No pickle: tensors as tensors, everything else as JSON in the file's metadata.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from app.errors import InvalidInput
from app.files import write_file

CHECKPOINT = "checkpoint.safetensors"


@dataclass(slots=True)
class Progress:
    """How far a run is.

    Attributes:
        epoch: the epoch in progress, from 0.
        step: batches done of that epoch.
        update: updates done in all.
    """

    epoch: int = 0
    step: int = 0
    update: int = 0


def write_checkpoint(folder: Path, run: str, model: nn.Module, optimizer: torch.optim.Optimizer, progress: Progress,
                     scaler: dict[str, Any] | None = None) -> None:  # fmt: skip
    """Replaces the checkpoint in one step.

    Args:
        folder: of the run.
        run: names the configuration and the data, so that another run never goes on from here.
        model: unwrapped.
        optimizer: whose parameters are those of the model that require gradients, in the same order.
        progress: how far the run is.
        scaler: state of the gradient scaler, for fp16.
    """
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    frozen = {name for name, _ in model.named_parameters()} - trained
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items() if name not in frozen}
    state = optimizer.state_dict()
    scalars: dict[str, dict[str, float]] = {}
    for number, entries in state["state"].items():
        for key, value in entries.items():
            if isinstance(value, Tensor) and value.ndim:
                tensors[f"optimizer.{number}.{key}"] = value
            else:
                scalars.setdefault(str(number), {})[key] = float(value)
    about = {
        "run": run, "epoch": progress.epoch, "step": progress.step, "update": progress.update,
        "optimizer": scalars, "groups": [_plain(group) for group in state["param_groups"]], "scaler": scaler,
    }  # fmt: skip
    data = save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, {"state": json.dumps(about)})
    write_file(folder / CHECKPOINT, data)


def _plain(group: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in group.items() if isinstance(value, int | float | bool | str | list | tuple | None)}


def read_checkpoint(
    folder: Path, run: str, model: nn.Module, optimizer: torch.optim.Optimizer
) -> tuple[Progress, dict[str, Any] | None]:
    """Brings model and optimizer back to the checkpoint; returns how far it was, and the state of the gradient scaler.

    Raises:
        InvalidInput: there is none, it is damaged, or it belongs to another configuration or other data.
    """
    file = folder / CHECKPOINT
    try:
        with safe_open(file, framework="pt") as stored:
            about = json.loads((stored.metadata() or {})["state"])
            tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
        found, progress = about["run"], Progress(about["epoch"], about["step"], about["update"])
    except FileNotFoundError as error:
        raise InvalidInput(f"there is no checkpoint in {folder}: leave --resume out to start anew.") from error
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise InvalidInput(f"{file} is no checkpoint, or is damaged: leave --resume out to start anew.") from error
    if found != run:
        raise InvalidInput(
            f"the checkpoint in {folder} belongs to a run with other options or other listings: "
            "give the same ones, or leave --resume out to start anew."
        )
    weights = {name.removeprefix("model."): tensor for name, tensor in tensors.items() if name.startswith("model.")}
    model.load_state_dict(weights, strict=False)
    entries: dict[int, dict[str, Any]] = {int(n): dict(values) for n, values in about["optimizer"].items()}
    for name, tensor in tensors.items():
        if name.startswith("optimizer."):
            _, number, key = name.split(".")
            entries.setdefault(int(number), {})[key] = tensor
    for values in entries.values():
        values["step"] = torch.tensor(values["step"])
    optimizer.load_state_dict({"state": entries, "param_groups": about["groups"]})
    return progress, about["scaler"]
