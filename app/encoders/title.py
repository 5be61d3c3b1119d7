"""The title tower: a Hugging Face transformer, masked mean pooling, a projection, L2."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoConfig, AutoModel

from app.core.spec import TitleSpec


class TitleTower(nn.Module):
    """`(n, tokens)` ids and mask -> `(n, dim)` float32 unit vectors."""

    def __init__(self, spec: TitleSpec, config: dict[str, Any]) -> None:
        super().__init__()
        self.spec = spec
        options = {key: value for key, value in config.items() if key not in ("model_type", "dtype", "torch_dtype")}
        self.backbone: nn.Module = AutoModel.from_config(  # type: ignore[no-untyped-call]
            AutoConfig.for_model(config["model_type"], **options), trust_remote_code=False, dtype=torch.float32
        )
        if hasattr(self.backbone, "pooler"):
            self.backbone.pooler = None  # trained for next-sentence prediction; masked mean pooling replaces it
        self.projection = nn.Linear(spec.features, spec.dim) if spec.projection else nn.Identity()

    def features(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Returns masked mean-pooled features, `(n, features)`, before projection and normalisation."""
        states = self.backbone(input_ids=ids, attention_mask=mask).last_hidden_state.float()
        weights = mask.unsqueeze(-1).float()
        pooled: Tensor = (states * weights).sum(1) / weights.sum(1).clamp(min=1)
        return pooled

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """See the class."""
        return functional.normalize(self.projection(self.features(ids, mask)).float(), dim=-1)


class TitleTokens:
    """Clean titles -> padded token ids, with the prefix and length limit that the bundle names."""

    def __init__(self, spec: TitleSpec, file: Path) -> None:
        self.prefix = spec.prefix
        self._tokenizer = Tokenizer.from_str(file.read_text("utf-8"))
        self._tokenizer.enable_truncation(spec.max_tokens)
        self._tokenizer.enable_padding(pad_id=spec.pad_id)

    def __call__(self, titles: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Returns `(n, longest)` int64 ids and mask."""
        encoded = self._tokenizer.encode_batch([self.prefix + title for title in titles])
        ids = torch.tensor([e.ids for e in encoded], dtype=torch.long)
        return ids, torch.tensor([e.attention_mask for e in encoded], dtype=torch.long)


def read_config(file: Path) -> dict[str, Any]:
    """Reads a Hugging Face `config.json`; code that it may name is never run."""
    config: dict[str, Any] = json.loads(file.read_text("utf-8"))
    return {key: value for key, value in config.items() if key != "auto_map"}
