"""The title tower: a Hugging Face transformer, masked mean pooling, a projection, L2; and n-grams beside it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional

from app.core.spec import TitleSpec
from app.encoders.ngrams import NgramPart, NgramReader, Ngrams
from app.encoders.runtime import sent

# measured in docs/performance.md
_CALL_TOKENS = 24  # a call of the transformer costs as much as so many tokens
_SPLIT_TOKENS = 64  # with fewer for each of two calls at the same time, one call for all is cheaper than it is slower


@dataclass(frozen=True, slots=True)
class TitleBatch:
    """What the tower reads of `n` titles: `(n, tokens)` int64 ids and mask, and the n-grams if it has that part."""

    ids: Tensor
    mask: Tensor
    ngrams: Ngrams | None

    def to(self, device: torch.device) -> TitleBatch:
        """Returns the batch on a device."""
        return TitleBatch(sent(self.ids, device), sent(self.mask, device), self.ngrams.to(device) if self.ngrams else None)


class TitleTower(nn.Module):
    """A batch of `n` titles -> `(n, dim)` float32 unit vectors."""

    def __init__(self, spec: TitleSpec, config: dict[str, Any]) -> None:
        from transformers import AutoConfig, AutoModel  # takes a second, and a converted tower does without

        super().__init__()
        self.spec = spec
        options = {key: value for key, value in config.items() if key not in ("model_type", "dtype", "torch_dtype")}
        self.backbone: nn.Module = AutoModel.from_config(  # type: ignore[no-untyped-call]
            AutoConfig.for_model(config["model_type"], **options), trust_remote_code=False, dtype=torch.float32
        )
        if hasattr(self.backbone, "pooler"):
            self.backbone.pooler = None  # trained for next-sentence prediction; masked mean pooling replaces it
        self.projection = nn.Linear(spec.features, spec.own_dim) if spec.projection else nn.Identity()
        self.ngrams = NgramPart(spec.ngrams) if spec.ngrams else None

    def narrow(self, precision: torch.dtype) -> None:
        """Lets the transformer compute in `precision`, up to its last states; what is made of them stays in float32."""
        self.backbone.to(precision)

    def features(self, batch: TitleBatch) -> Tensor:
        """Returns masked mean-pooled features, `(n, features)`, before projection and normalisation.

        On a CPU a batch is read in parts of similar length: one long title makes all others of its part as expensive. A
        GPU does the whole batch in one go sooner than several small parts.
        """
        if batch.ids.device.type != "cpu":
            return self._pooled(batch.ids, batch.mask)
        return by_length(batch.ids, batch.mask, lambda parts: [self._pooled(*part) for part in parts])

    def own(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Returns the transformer's part of the vectors, `(n, own_dim)` unit rows, of titles that are read together."""
        return self._own(self._pooled(ids, mask))

    def _own(self, features: Tensor) -> Tensor:
        return functional.normalize(self.projection(features).float(), dim=-1)

    def _pooled(self, ids: Tensor, mask: Tensor) -> Tensor:
        states = self.backbone(input_ids=ids, attention_mask=mask).last_hidden_state.float()
        weights = mask.unsqueeze(-1).float()
        pooled: Tensor = (states * weights).sum(1) / weights.sum(1).clamp(min=1)
        return pooled

    def forward(self, batch: TitleBatch) -> Tensor:
        """See the class."""
        own = self._own(self.features(batch))
        return own if self.ngrams is None or batch.ngrams is None else self.join(own, self.ngrams(batch.ngrams))

    def join(self, own: Tensor, ngrams: Tensor) -> Tensor:
        """See `joined`."""
        return joined(self.spec, own, ngrams)


def joined(spec: TitleSpec, own: Tensor, ngrams: Tensor | None) -> Tensor:
    """Returns the titles' unit vectors, whose cosine is the weighted mean of both parts' cosines.

    Args:
        spec: of the tower.
        own: `(n, own_dim)` unit rows of the transformer.
        ngrams: `(n, ngrams.dim)` unit rows; None if the tower has no such part.
    """
    if ngrams is None:
        return own
    share = spec.ngrams.share if spec.ngrams else 0.0
    return torch.cat([(1 - share) ** 0.5 * own, share**0.5 * ngrams], dim=-1)


Parts = Sequence[tuple[Tensor, Tensor]]  # ids and mask of each


def by_length(ids: Tensor, mask: Tensor, read: Callable[[Parts], Sequence[Tensor]], at_once: int = 1) -> Tensor:
    """Reads titles in parts of similar length, each cut to its longest title.

    Args:
        ids: `(n, tokens)`, padded at the end.
        mask: `(n, tokens)`, 1 where there is a token.
        read: all parts -> for each of them, one row per title.
        at_once: how many parts can be read at the same time: there are as many, if they are worth it.

    Returns:
        The rows in the order of the titles.
    """
    if len(ids) == 1:  # a single request, most of the time: there is nothing to sort
        length = int(mask.sum())
        return read([(ids[:, :length], mask[:, :length])])[0]
    lengths = mask.sum(1)
    order = lengths.argsort(descending=True, stable=True)
    parts = torch.split(order, _sizes(lengths[order].tolist(), at_once))
    rows = read([(ids[part, : lengths[part[0]]], mask[part, : lengths[part[0]]]) for part in parts])
    return torch.cat(list(rows))[order.argsort()]


def _sizes(lengths: Sequence[int], at_once: int) -> list[int]:
    """Returns how many titles each part has, so that calls and padding together cost least.

    Args:
        lengths: tokens of each title, the longest first.
        at_once: see `by_length`.
    """
    most = -(-len(lengths) // max(1, min(at_once, sum(lengths) // _SPLIT_TOKENS)))
    cheapest = [(0, 0)]  # of the first 0, 1, ... titles: what they cost, and where their last part begins
    for end in range(1, len(lengths) + 1):
        starts = range(max(0, end - most), end)
        cheapest.append(min((cheapest[at][0] + _CALL_TOKENS + lengths[at] * (end - at), at) for at in starts))
    sizes, end = list[int](), len(lengths)
    while end:
        start = cheapest[end][1]
        sizes.append(end - start)
        end = start
    return sizes[::-1]


class TitleTokens:
    """Clean titles -> what the tower reads, with the prefix and length limit that the bundle names."""

    def __init__(self, spec: TitleSpec, file: Path) -> None:
        self.prefix = spec.prefix
        self._tokenizer = Tokenizer.from_str(file.read_text("utf-8"))
        self._tokenizer.enable_truncation(spec.max_tokens)
        self._tokenizer.enable_padding(pad_id=spec.pad_id)
        self._ngrams = NgramReader(spec.ngrams) if spec.ngrams else None

    def __call__(self, titles: Sequence[str]) -> TitleBatch:
        """Returns the batch, padded to its longest title."""
        encoded = self._tokenizer.encode_batch([self.prefix + title for title in titles])
        ids = torch.tensor([e.ids for e in encoded], dtype=torch.long)
        mask = torch.tensor([e.attention_mask for e in encoded], dtype=torch.long)
        return TitleBatch(ids, mask, self._ngrams(titles) if self._ngrams else None)


def read_config(file: Path) -> dict[str, Any]:
    """Reads a Hugging Face `config.json`; code that it may name is never run."""
    config: dict[str, Any] = json.loads(file.read_text("utf-8"))
    return {key: value for key, value in config.items() if key != "auto_map"}
