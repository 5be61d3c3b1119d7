"""The training loop: reads from top to bottom. Devices, processes and precision are accelerate's business.

    torchrun --nproc-per-node 4 -m app train ...      one process per GPU, nothing else changes

A run owns a folder with its checkpoint and its history. The order of the listings, their augmentation and dropout follow
from seed, epoch and step alone, so a run that goes on from a checkpoint repeats what an uninterrupted one would have done.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs
from torch import Tensor, nn
from torch.utils.data import DataLoader

from app.encoders.title import TitleTokens
from app.errors import InvalidInput, TrainingFailed, TrainingInterrupted
from app.training.batches import EpochBatches
from app.training.checkpoint import Progress, read_checkpoint, write_checkpoint
from app.training.config import TrainingConfig
from app.training.dataset import Collate, ListingDataset
from app.training.distil import Teacher
from app.training.history import History
from app.training.model import Batch, TrainingModel
from app.training.schedule import margin_at, rate_factor

Report = Callable[[Progress, dict[str, float]], None]


@dataclass(frozen=True, slots=True)
class Run:
    """Where a run keeps its state, and what names it: another configuration or other data must not go on from there."""

    folder: Path
    name: str
    resume: bool


def make_accelerator(config: TrainingConfig, device: str) -> Accelerator:
    """Returns accelerate's view of the devices; `device` is `auto`, `cuda` or `cpu`.

    Raises:
        InvalidInput: a GPU is asked for, or fp16, which needs one, and there is none.
    """
    with_gpu = torch.cuda.is_available()
    if device == "cuda" and not with_gpu:
        raise InvalidInput("--device cuda: PyTorch sees no GPU. Check the driver, or use --device auto.")
    if config.precision == "fp16" and (device == "cpu" or not with_gpu):
        raise InvalidInput("--precision fp16 needs a GPU: use bf16 or fp32.")
    precision = "no" if config.precision == "fp32" else config.precision
    handlers = [DistributedDataParallelKwargs(find_unused_parameters=True)]  # a batch may hold no photo, or no title
    return Accelerator(mixed_precision=precision, cpu=device == "cpu", kwargs_handlers=handlers)


def freeze(model: TrainingModel, config: TrainingConfig) -> None:
    """Takes the gradients from what the configuration leaves as it is; normalisations inside a photo backbone always are.

    Their running statistics come from millions of photos, those of a batch from sixty-four.
    """
    for tower in (model.image, model.title):
        if tower is not None and config.freeze_projections:
            tower.projection.requires_grad_(False)
            tower.norm.requires_grad_(False)
    if model.title is not None:
        backbone = model.title.tower.backbone
        if config.freeze_words:
            backbone.get_input_embeddings().requires_grad_(False)  # type: ignore[operator]
        stacks = [m for m in backbone.modules() if isinstance(m, nn.ModuleList)]
        for layer in stacks[0][: config.freeze_title_layers] if stacks else []:
            layer.requires_grad_(False)
    if model.image is not None and config.freeze_image_stages:
        backbone = model.image.tower.backbone
        blocks = getattr(backbone, "blocks", None) or getattr(backbone, "stages", None)
        stem = [child for name, child in backbone.named_children() if name in ("conv_stem", "bn1", "stem", "patch_embed")]
        for part in [*stem, *list(blocks or [])[: config.freeze_image_stages]]:
            part.requires_grad_(False)


def set_dropout(model: TrainingModel, config: TrainingConfig) -> None:
    """Gives all dropout of the title tower the probability that the configuration names, if it names one."""
    if model.title is not None and config.dropout is not None:
        for module in model.title.tower.backbone.modules():
            if isinstance(module, nn.Dropout):
                module.p = config.dropout


def train_mode(model: TrainingModel) -> None:
    """Training mode, except for what `freeze` leaves alone."""
    model.train()
    for tower in (model.image, model.title):
        if tower is not None and model.config.freeze_projections:
            tower.norm.eval()
    if model.image is not None:
        for module in model.image.tower.backbone.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                module.eval()


def make_optimizer(model: TrainingModel, config: TrainingConfig) -> torch.optim.AdamW:
    """AdamW with four groups: backbone or not, matrix (decayed) or not. Loshchilov and Hutter, arXiv 1711.05101."""
    groups: dict[tuple[bool, bool], list[Tensor]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups.setdefault((".tower.backbone." in name, parameter.ndim > 1), []).append(parameter)
    return torch.optim.AdamW(
        [
            {
                "params": parameters,
                "lr": config.learning_rate if backbone else config.head_rate,
                "peak": config.learning_rate if backbone else config.head_rate,
                "weight_decay": config.weight_decay if matrix else 0.0,
            }
            for (backbone, matrix), parameters in sorted(groups.items())
        ]
    )


@contextmanager
def stop_requests() -> Iterator[Callable[[], bool]]:
    """Yields a function that says whether Ctrl-C or SIGTERM has come; a second Ctrl-C interrupts at once."""
    asked: list[int] = []

    def note(number: int, _: FrameType | None) -> None:
        if asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        asked.append(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Trainer:
    """Trains one model on one set of listings."""

    def __init__(
        self, model: TrainingModel, dataset: ListingDataset, tokens: TitleTokens | None, config: TrainingConfig, run: Run,
        accelerator: Accelerator, teacher: Teacher | None = None,
    ) -> None:  # fmt: skip
        """Puts the parts together; nothing is computed yet. `model` must have been frozen (see `freeze`) before."""
        self.model, self.config, self.run, self.accelerator, self.teacher = model, config, run, accelerator, teacher
        self.batches = EpochBatches(
            dataset.labels, [len(item.title or "") for item in dataset.items], config.batch_size, config.max_per_group,
            config.seed, accelerator.process_index, accelerator.num_processes,
        )  # fmt: skip
        self.updates_per_epoch = -(-self.batches.batches // config.accumulate)
        self.updates = config.epochs * self.updates_per_epoch
        self.loader: DataLoader[Any] = DataLoader(
            dataset, batch_sampler=self.batches, collate_fn=Collate(tokens), num_workers=config.workers,
            pin_memory=accelerator.device.type == "cuda",
        )  # fmt: skip
        self.optimizer = make_optimizer(model, config)
        self.history = History(run.folder) if accelerator.is_main_process else None
        self.progress = Progress()

    def train(self, report: Report) -> None:
        """Trains to the end of the last epoch, or until it is asked to stop; the checkpoint always allows going on.

        Args:
            report: called after every update with the progress and the latest losses and rates, on the main process.

        Raises:
            TrainingInterrupted: Ctrl-C or SIGTERM came; the checkpoint is written.
            InvalidInput: a checkpoint that does not fit, see `read_checkpoint`.
        """
        scaler_state = None
        if self.run.resume:
            self.progress, scaler_state = read_checkpoint(self.run.folder, self.run.name, self.model, self.optimizer)
        if self.history is not None:
            self.history.cut(self.progress.update)
        wrapped, optimizer = self.accelerator.prepare(self.model, self.optimizer)
        if scaler_state is not None and self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(scaler_state)
        saved = time.monotonic()
        with stop_requests() as stop, closing(self.history) if self.history is not None else nullcontext():
            while self.progress.epoch < self.config.epochs:
                self.batches.set_epoch(self.progress.epoch, self.progress.step)
                train_mode(self.model)
                losses: dict[str, list[Tensor]] = {}
                for batch in self.loader:
                    if not self._step(wrapped, optimizer, batch.to(self.accelerator.device), losses):
                        continue
                    record = self._record(losses, optimizer)
                    losses = {}
                    if self.history is not None:
                        self.history.add(record)
                        report(self.progress, record)
                    stopped, due = self._any(stop(), time.monotonic() - saved > 60 * self.config.checkpoint_minutes)
                    if stopped or due:
                        self.save()
                        saved = time.monotonic()
                    if stopped:
                        raise TrainingInterrupted(
                            f"stopped in epoch {self.progress.epoch + 1} of {self.config.epochs}: the same command with "
                            "--resume goes on from here."
                        )
                self.progress.epoch, self.progress.step = self.progress.epoch + 1, 0
                self.save()

    def _step(self, wrapped: nn.Module, optimizer: Any, batch: Batch, losses: dict[str, list[Tensor]]) -> bool:
        """One batch: forward, backward, and an update after enough batches; returns whether there was one."""
        config, progress = self.config, self.progress
        # dropout of this step, whatever happened before: a resumed run draws the same
        torch.manual_seed(hash((config.seed, progress.epoch, progress.step, self.accelerator.process_index)) % 2**63)
        progress.step += 1
        update = progress.step % config.accumulate == 0 or progress.step == self.batches.batches
        self.model.set_margin(margin_at(progress.update, self.updates, config))
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * rate_factor(progress.update, self.updates, config.warm_up)
        if self.teacher is not None:
            batch = self.teacher.joined_to(batch)
        with nullcontext() if update else self.accelerator.no_sync(wrapped):
            with self.accelerator.autocast():
                found: dict[str, Tensor] = wrapped(batch)
            self.accelerator.backward(torch.stack(list(found.values())).sum() / config.accumulate)
        for name, loss in found.items():
            losses.setdefault(name, []).append(loss.detach())
        if update:
            self.accelerator.clip_grad_norm_(wrapped.parameters(), config.clip)
            optimizer.step()
            optimizer.zero_grad()
            progress.update += 1
        return update

    def _record(self, losses: dict[str, list[Tensor]], optimizer: Any) -> dict[str, float]:
        record = {f"loss_{name}": float(torch.stack(values).mean()) for name, values in losses.items()}
        record["loss"] = sum(record.values())
        record["update"] = self.progress.update
        record["epoch"] = self.progress.epoch + self.progress.step / self.batches.batches
        bad = [name for name, value in record.items() if not np.isfinite(value)]
        if bad and self.config.precision != "fp16":  # fp16 skips such updates by itself
            raise TrainingFailed(
                f"{', '.join(bad)} is not a number in epoch {self.progress.epoch + 1}: lower --learning-rate, or use fp32 "
                "or bf16. The last checkpoint is from before."
            )
        rates = {group["peak"]: group["lr"] for group in optimizer.param_groups}
        record["head_rate"] = rates.get(self.config.head_rate, 0.0)
        record["learning_rate"] = rates.get(self.config.learning_rate, 0.0)
        record["margin"] = margin_at(self.progress.update - 1, self.updates, self.config)
        return record

    def _any(self, *flags: bool) -> list[bool]:
        """Whether any process raises each flag: all stop or save after the same update, or would wait for each other."""
        if self.accelerator.num_processes == 1:
            return list(flags)
        raised = torch.tensor([flags], dtype=torch.float32, device=self.accelerator.device)
        return [bool(one) for one in self.accelerator.gather(raised).amax(0) > 0]

    def save(self) -> None:
        """Writes the checkpoint, on the main process."""
        if self.accelerator.is_main_process:
            scaler = self.accelerator.scaler.state_dict() if self.accelerator.scaler is not None else None
            write_checkpoint(self.run.folder, self.run.name, self.model, self.optimizer, self.progress, scaler)
        self.accelerator.wait_for_everyone()
