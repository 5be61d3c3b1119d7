"""Heads that teach an embedding to put the products of one group close together, by angle.

A head holds one or more centres per group of the training data. It is a classifier, used in training only: its gradient
shapes the embedding, and it is thrown away afterwards.

    ArcFaceHead       Deng et al., "ArcFace: Additive Angular Margin Loss for Deep Face Recognition", arXiv 1801.07698;
                      with several centres per group: Deng et al., "Sub-center ArcFace", ECCV 2020
    margin_shares     Ha, Liu and Liu, "Google Landmark Recognition 2020 Competition Third Place Solution", arXiv 2010.05350
    CurricularHead    Huang et al., "CurricularFace: Adaptive Curriculum Learning Loss", arXiv 2004.00288

Cosines are computed in float32 whatever the precision around them, and kept strictly inside (-1, 1): the gradient of
`acos` is infinite at the ends, and the dot product of two equal unit vectors often lies above 1.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from app.errors import InvalidInput

EPSILON = 1e-6
FALL_POWER = 0.25  # of the size of a group, by which its margin falls
MAX_MARGIN = math.pi / 2
HeadKind = Literal["arcface", "subcenter", "curricular"]


class ArcFaceHead(nn.Module):
    """Cross-entropy over `scale * cos(angle + margin)` for the own group and `scale * cos(angle)` for all others.

    Attributes:
        margin: m in radians; may be changed between steps (a ramp).
        shares: `(groups,)` float32, what share of the margin each group has; all of it, unless it is changed.
        scale: s.
    """

    margin: float
    shares: Tensor

    def __init__(self, dim: int, groups: int, margin: float = 0.5, scale: float = 30.0, centres: int = 1) -> None:
        """Makes a head with random centres.

        Args:
            dim: of the embeddings.
            groups: how many there are in training.
            margin: m in radians, in [0, pi / 2).
            scale: s, above 0; 30 or more for thousands of groups: a small one caps the probability of the right group.
            centres: per group; a cosine to a group is that to its nearest centre.

        Raises:
            InvalidInput: an argument outside its range.
        """
        super().__init__()
        check_margin(margin)
        if scale <= 0 or groups < 2 or centres < 1:
            raise InvalidInput(
                f"a head needs a scale above 0, two groups and one centre or more; got {scale}, {groups}, {centres}."
            )
        self.margin, self.scale, self.groups, self.centres = margin, scale, groups, centres
        self.weight = nn.Parameter(torch.empty(groups * centres, dim))
        nn.init.xavier_normal_(self.weight)
        self.register_buffer("shares", torch.ones(groups), persistent=False)

    def cosines(self, embeddings: Tensor) -> Tensor:
        """Returns `(n, groups)` float32 cosines strictly inside (-1, 1)."""
        with torch.autocast(embeddings.device.type, enabled=False):
            rows, centres = functional.normalize(embeddings.float()), functional.normalize(self.weight.float())
            cosines = rows @ centres.T
            if self.centres > 1:
                cosines = cosines.view(len(rows), self.groups, self.centres).amax(dim=-1)
            return cosines.clamp(-1 + EPSILON, 1 - EPSILON)

    def logits(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Returns `(n, groups)` logits, the margin applied to each row's own group."""
        cosines = self.cosines(embeddings)
        own = cosines.gather(1, labels[:, None])
        return self.scale * cosines.scatter(1, labels[:, None], with_margin(own, self.margins(labels)))

    def margins(self, labels: Tensor) -> Tensor:
        """Returns the margins of `(n,)` groups in radians, `(n, 1)`."""
        return self.margin * self.shares[labels][:, None]

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """Returns the mean loss of `(n, dim)` embeddings, of any length, with `(n,)` int64 labels in [0, groups)."""
        return functional.cross_entropy(self.logits(embeddings, labels), labels)


class CurricularHead(ArcFaceHead):
    """ArcFace that weighs hard negatives more as training succeeds, by a running mean `t` of the own cosine."""

    t: Tensor

    def __init__(self, dim: int, groups: int, margin: float = 0.5, scale: float = 30.0, momentum: float = 0.01) -> None:
        """See `ArcFaceHead`; `momentum` is the share of the present batch in the running mean."""
        super().__init__(dim, groups, margin, scale)
        self.momentum = momentum
        self.register_buffer("t", torch.zeros(()))

    def logits(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """See `ArcFaceHead.logits`."""
        cosines = self.cosines(embeddings)
        own = cosines.gather(1, labels[:, None])
        target = with_margin(own, self.margins(labels))
        if self.training:
            self.t.lerp_(own.detach().mean(), self.momentum)
        harder = cosines > target.detach()  # a negative that beats the own group, margin included
        cosines = torch.where(harder, cosines * (self.t + cosines), cosines)
        return self.scale * cosines.scatter(1, labels[:, None], target)


def with_margin(cosines: Tensor, margins: Tensor) -> Tensor:
    """Returns `cos(angle + margin)`; past pi, where that would rise again, a line that goes on falling.

    Args:
        cosines: strictly inside (-1, 1).
        margins: in radians, broadcast against them.
    """
    sines = (1 - cosines.square()).sqrt()
    turned = cosines * margins.cos() - sines * margins.sin()
    beyond = cosines <= (math.pi - margins).cos()
    return torch.where(beyond, cosines - margins * margins.sin(), turned)


def margin_shares(sizes: Tensor, margin: float, fall: float) -> Tensor:
    """Returns the shares of the margin that groups have by their sizes: `m(n) = margin - fall * (1 - (2 / n) ^ 1/4)`.

    Small groups, of which there are most and which say least about themselves, get the larger margins.

    Args:
        sizes: `(groups,)` listings of each; one counts as two.
        margin: of groups of two, in radians.
        fall: how far the margin of ever larger groups falls, at most `margin`; 0 for equal margins.
    """
    if fall == 0:
        return torch.ones(len(sizes))
    return 1 - fall / margin * (1 - (2 / sizes.float().clamp(min=2)) ** FALL_POWER)


def check_margin(margin: float) -> None:
    """Raises InvalidInput for a margin that is no angle in [0, pi / 2)."""
    if not 0 <= margin < MAX_MARGIN:
        hint = f": is it in degrees? {margin} degrees are {math.radians(margin):.3f} radians" if 2 < margin <= 90 else ""
        raise InvalidInput(f"a margin is an angle in radians in [0, {MAX_MARGIN:.2f}), not {margin}{hint}.")


def make_head(kind: HeadKind, dim: int, groups: int, margin: float, scale: float, centres: int) -> ArcFaceHead:
    """Returns a head of a kind; `centres` counts for `subcenter` only."""
    if kind == "curricular":
        return CurricularHead(dim, groups, margin, scale)
    return ArcFaceHead(dim, groups, margin, scale, centres if kind == "subcenter" else 1)
