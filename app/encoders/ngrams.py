"""Hashed character n-grams: the part of a title's vector that needs no vocabulary and knows every language.

Shop titles are full of model numbers, sizes and misspelt brands that no transformer has seen; equal runs of characters
still say that two titles name the same thing. Every n-gram falls into a bucket by its hash, every bucket has a weight
(its inverse document frequency, or what training made of it), and a bucket adds its weight to one dimension with one sign.
Inner products of such vectors are unbiased estimates of those of the full TF-IDF vectors: Weinberger et al., "Feature
Hashing for Large Scale Multitask Learning", arXiv 0902.2206.

Reading is scikit-learn's `HashingVectorizer(analyzer="char_wb")`, for all titles of a batch at once: that one walks through
every n-gram in Python, and holds the lock that everything else waits for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from app.core.spec import NgramSpec
from app.encoders.murmur import murmur3
from app.encoders.runtime import sent

Integers = NDArray[np.int64]


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
        self._sizes = range(spec.shortest, spec.longest + 1)
        self._buckets = spec.buckets

    def __call__(self, titles: Sequence[str]) -> Ngrams:
        """Reads titles; case is ignored."""
        words = [title.lower().split() for title in titles]
        text = "".join(f" {word} " for some in words for word in some)
        lengths = np.array([len(word) + 2 for some in words for word in some], np.int64)
        starts, ends, of = self._pieces(lengths)
        codes = np.frombuffer(text.encode("utf-32-le"), np.uint32)
        widths = 1 + (codes >= 0x80).astype(np.int64) + (codes >= 0x800) + (codes >= 0x10000)
        offsets = np.concatenate([[0], np.cumsum(widths)])
        hashes = murmur3(np.frombuffer(text.encode(), np.uint8), offsets[starts], offsets[ends])
        title_of = np.repeat(np.arange(len(titles)), [len(some) for some in words])
        # the absolute value, but for the lowest number, which has none: as scikit-learn does
        buckets = np.abs(hashes.view(np.int32).astype(np.int64)) % self._buckets
        keys, counts = np.unique(title_of[of] * self._buckets + buckets, return_counts=True)
        rows, found = np.divmod(keys, self._buckets)
        weights = 1 + np.log(counts.astype(np.float32))
        return Ngrams(len(titles), torch.from_numpy(rows), torch.from_numpy(found), torch.from_numpy(weights))

    def _pieces(self, lengths: Integers) -> tuple[Integers, Integers, Integers]:
        """Returns where every n-gram starts and ends, in characters of all words in a row, and which word it is of.

        A word that is shorter than an n-gram is one by itself, once.
        """
        first = np.cumsum(lengths) - lengths
        word = np.repeat(np.arange(len(lengths)), lengths)
        left = (first + lengths)[word] - np.arange(len(word))  # characters from here to the end of the word
        short = np.flatnonzero(lengths < self._sizes[0])
        starts = [np.flatnonzero(left >= size) for size in self._sizes]
        ends = [start + size for start, size in zip(starts, self._sizes, strict=True)]
        begun = np.concatenate([*starts, first[short]])
        return begun, np.concatenate([*ends, (first + lengths)[short]]), word[begun]

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
