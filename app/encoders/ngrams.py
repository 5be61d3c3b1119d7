"""Hashed character n-grams: the part of a title's vector that needs no vocabulary and knows every language.

Shop titles are full of model numbers, sizes and misspelt brands that no transformer has seen; equal runs of characters
still say that two titles name the same thing. Every n-gram falls into a bucket by its hash, every bucket has a weight
(its inverse document frequency, or what training made of it), and a bucket adds its weight to one dimension with one sign.
Inner products of such vectors are unbiased estimates of those of the full TF-IDF vectors: Weinberger et al., "Feature
Hashing for Large Scale Multitask Learning", arXiv 0902.2206.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from sklearn.feature_extraction.text import HashingVectorizer
from torch import Tensor, nn
from torch.nn import functional

from app.core.spec import NgramSpec
from app.encoders.runtime import sent


@dataclass(frozen=True, slots=True)
class Ngrams:
    """The n-grams of a batch of titles, one entry per title and bucket.

    Attributes:
        titles: how many titles.
        rows: `(entries,)` int64, the title.
        buckets: `(entries,)` int64.
        counts: `(entries,)` float32, `1 + ln(occurrences)`.
    """

    titles: int
    rows: Tensor
    buckets: Tensor
    counts: Tensor

    def to(self, device: torch.device) -> Ngrams:
        """Returns them on a device."""
        return Ngrams(self.titles, sent(self.rows, device), sent(self.buckets, device), sent(self.counts, device))


class NgramReader:
    """Clean titles -> their n-grams. The hash is MurmurHash3, the same on every machine."""

    def __init__(self, spec: NgramSpec) -> None:
        self._vectorizer = HashingVectorizer(
            analyzer="char_wb",
            ngram_range=(spec.shortest, spec.longest),
            n_features=spec.buckets,
            norm=None,
            alternate_sign=False,
            dtype=np.float32,
        )

    def __call__(self, titles: Sequence[str]) -> Ngrams:
        """Reads titles; case is ignored."""
        if not titles:  # scikit-learn takes none
            return Ngrams(0, torch.zeros(0, dtype=torch.long), torch.zeros(0, dtype=torch.long), torch.zeros(0))
        found = self._vectorizer.transform(titles)  # CSR; SciPy's own way to entries is slow for one title
        rows = np.repeat(np.arange(len(titles), dtype=np.int64), np.diff(found.indptr))
        buckets = torch.from_numpy(found.indices.astype(np.int64))
        return Ngrams(len(titles), torch.from_numpy(rows), buckets, 1 + torch.from_numpy(found.data).log())

    def document_frequency(self, titles: Sequence[str], buckets: int) -> Tensor:
        """Returns in how many of the titles each bucket occurs, `(buckets,)` float32."""
        return torch.bincount(self(titles).buckets, minlength=buckets).float()


class NgramPart(nn.Module):
    """The n-grams of `n` titles -> `(n, dim)` float32 unit vectors."""

    def __init__(self, spec: NgramSpec) -> None:
        super().__init__()
        self.spec = spec
        self.weight = nn.Parameter(torch.ones(spec.buckets))

    def forward(self, ngrams: Ngrams) -> Tensor:
        """See the class. The low bits of a bucket are its dimension, the highest is its sign."""
        values = ngrams.counts * self.weight[ngrams.buckets]
        signed = torch.where(ngrams.buckets >= self.spec.buckets // 2, values, -values)
        cells = ngrams.rows * self.spec.dim + (ngrams.buckets & (self.spec.dim - 1))
        flat = torch.zeros(ngrams.titles * self.spec.dim, dtype=values.dtype, device=values.device)
        return functional.normalize(flat.index_add(0, cells, signed).view(ngrams.titles, self.spec.dim), dim=-1)
