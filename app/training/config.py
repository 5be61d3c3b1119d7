"""Everything that decides how a training run goes, with its ranges; stored in the bundle that the run writes."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from app.training.arcface import HeadKind

Share = Annotated[float, Field(ge=0, le=1)]
Rate = Annotated[float, Field(gt=0, le=1)]
Margin = Annotated[float, Field(ge=0, lt=math.pi / 2)]


class TrainingConfig(BaseModel):
    """Options of `python -m app train`; defaults are those of DESIGN for a run of 15 epochs.

    Attributes:
        epochs: passes over the training listings.
        batch_size: listings per step and process.
        accumulate: steps whose gradients are added up before an update.
        learning_rate: of the backbones, at its peak.
        head_rate: learning rate of heads, projections and n-gram weights, at its peak.
        weight_decay: of AdamW, for matrices; vectors (biases, norms) have none.
        warm_up: share of all updates in which the rates rise from 0; they fall to 0 along a cosine afterwards.
        clip: largest norm of the gradient.
        head: `arcface`, `subcenter` (several centres per group) or `curricular`.
        margin, margin_start: m in radians at the end and at the start of the ramp.
        margin_fall: how far m falls from groups of two, which have all of it, to ever larger ones; see
            `app.training.arcface.margin_shares`. 0 for equal margins.
        margin_ramp: share of all updates over which the margin rises.
        scale: s.
        centres: per group, for `subcenter`.
        fusion: `norm-concat`: halves are normalised, then weighted by w and concatenated, as when serving;
            `concat-norm`: the fused head sees concatenated halves of any length, normalised together, and w becomes
            the mean share of the photo's half.
        modality_dropout: how often a listing that has both shows the fused head only one of them.
        max_per_group: listings of one group that an epoch visits, so that large groups do not rule.
        augment_photos, augment_titles: strength of the augmentation, 0 for none.
        dropout: of the title tower's transformer; None leaves what its configuration says. Distilling wants 0: a teacher
            that is met only in a noisy state cannot be copied closely (measured in docs/experiments.md).
        freeze_words: leave the word embeddings of the title tower as they are.
        freeze_title_layers: leave so many of the title tower's first layers as they are.
        freeze_projections: leave the projections as they begin, principal components, so that only the backbones learn. What
            a projection learns from few kinds of products it forgets of all others (measured in docs/experiments.md).
        freeze_image_stages: leave the stem and so many of the image tower's first stages as they are.
        distil: weight of the loss that keeps each tower's pooled features close to those of the towers it started from.
        keep: share of the starting backbone's weights that is blended back in at the end (Wortsman et al., "Robust
            fine-tuning of zero-shot models", arXiv 2109.01903).
        precision: of the forward pass; weights and losses are float32.
        seed: of order, augmentation, dropout and heads.
        workers: processes that decode and augment; 0 does it in the training process.
        checkpoint_minutes: how often a checkpoint is written, besides at the end of every epoch.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    epochs: Annotated[int, Field(ge=1, le=1000)] = 15
    batch_size: Annotated[int, Field(ge=2, le=65536)] = 64
    accumulate: Annotated[int, Field(ge=1, le=1024)] = 1
    learning_rate: Rate = 5e-5
    head_rate: Rate = 5e-4
    weight_decay: Annotated[float, Field(ge=0, le=1)] = 0.01
    warm_up: Share = 0.05
    clip: Annotated[float, Field(gt=0)] = 5.0
    head: HeadKind = "arcface"
    margin: Margin = 0.5
    margin_start: Margin = 0.1
    margin_fall: Margin = 0.0
    margin_ramp: Share = 0.6
    scale: Annotated[float, Field(gt=0, le=1000)] = 30.0
    centres: Annotated[int, Field(ge=1, le=16)] = 3
    fusion: Literal["norm-concat", "concat-norm"] = "norm-concat"
    modality_dropout: Share = 0.2
    max_per_group: Annotated[int, Field(ge=1)] = 10
    augment_photos: Annotated[float, Field(ge=0, le=3)] = 1.0
    augment_titles: Annotated[float, Field(ge=0, le=3)] = 1.0
    dropout: Annotated[float, Field(ge=0, lt=1)] | None = None
    freeze_words: bool = False
    freeze_title_layers: Annotated[int, Field(ge=0)] = 0
    freeze_image_stages: Annotated[int, Field(ge=0)] = 0
    freeze_projections: bool = False
    distil: Annotated[float, Field(ge=0, le=1000)] = 0.0
    keep: Annotated[float, Field(ge=0, lt=1)] = 0.0
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    workers: Annotated[int, Field(ge=0, le=256)] = 0
    checkpoint_minutes: Annotated[float, Field(gt=0)] = 10.0

    @model_validator(mode="after")
    def _ramp(self) -> TrainingConfig:
        if self.margin_start > self.margin:
            raise ValueError(f"the margin rises from margin_start ({self.margin_start}) to margin ({self.margin})")
        if self.margin_fall > self.margin:
            raise ValueError(f"a margin of {self.margin} cannot fall by {self.margin_fall} (margin_fall)")
        return self
