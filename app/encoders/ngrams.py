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
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from app.core.spec import NgramSpec
from app.encoders.runtime import sent

Integers = NDArray[np.int64]
Hashes = NDArray[np.uint32]


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
    """Clean titles -> their n-grams. The hash is MurmurHash3 of their UTF-8, the same on every machine."""

    def __init__(self, spec: NgramSpec) -> None:
        self._spec = spec

    def __call__(self, titles: Sequence[str]) -> Ngrams:
        """Reads titles together, which is several times cheaper than one by one; case is ignored."""
        words = [title.lower().split() for title in titles]
        text = "".join(f" {word} " for title in words for word in title)
        if not text:
            return Ngrams(len(titles), torch.zeros(0, dtype=torch.long), torch.zeros(0, dtype=torch.long), torch.zeros(0))
        lengths = np.array([len(word) + 2 for title in words for word in title])
        title_of = np.repeat(np.arange(len(titles)), [len(title) for title in words])
        starts, sizes, word_of = self._spans(lengths)
        offsets, data = _utf8(text)
        ends = offsets[starts + sizes]
        buckets = np.abs(_murmur3(data, offsets[starts], ends).astype(np.int64)) & (self._spec.buckets - 1)
        entries, counts = np.unique(title_of[word_of] * self._spec.buckets + buckets, return_counts=True)
        rows, buckets = np.divmod(entries, self._spec.buckets)
        weights = 1 + torch.from_numpy(counts.astype(np.float32)).log()
        return Ngrams(len(titles), torch.from_numpy(rows), torch.from_numpy(buckets), weights)

    def _spans(self, lengths: Integers) -> tuple[Integers, Integers, Integers]:
        """Returns the runs of characters within words: where they start, how long they are, and in which word they lie.

        A word that is shorter than the shortest run is one by itself.

        Args:
            lengths: of the words, which follow each other.
        """
        word_of = np.repeat(np.arange(len(lengths)), lengths)
        firsts = np.cumsum(lengths) - lengths
        left = (firsts + lengths)[word_of] - np.arange(len(word_of))  # characters from here to the end of the word
        short = np.flatnonzero(lengths < self._spec.shortest)
        starts, sizes = [firsts[short]], [lengths[short]]
        for size in range(self._spec.shortest, self._spec.longest + 1):
            starts.append(np.flatnonzero(left >= size))
            sizes.append(np.full(len(starts[-1]), size))
        places = np.concatenate(starts)
        return places, np.concatenate(sizes), word_of[places]

    def document_frequency(self, titles: Sequence[str], buckets: int) -> Tensor:
        """Returns in how many of the titles each bucket occurs, `(buckets,)` float32."""
        return torch.bincount(self(titles).buckets, minlength=buckets).float()


def _utf8(text: str) -> tuple[Integers, Hashes]:
    """Returns where each character starts in UTF-8, and where the text ends; and the four bytes from every byte on."""
    points = np.frombuffer(text.encode("utf-32-le"), np.uint32)
    widths = 1 + (points >= 0x80).astype(np.int64) + (points >= 0x800) + (points >= 0x10000)
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(widths)])
    bytes_ = np.frombuffer(text.encode() + b"\0\0\0\0", np.uint8).astype(np.uint32)
    windows = bytes_[:-3] | bytes_[1:-2] << 8 | bytes_[2:-1] << 16 | bytes_[3:] << 24
    return offsets, windows.astype(np.uint32, copy=False)


def _murmur3(data: Hashes, starts: Integers, ends: Integers) -> NDArray[np.int32]:
    """Returns the MurmurHash3 (32 bits, seed 0) of stretches of bytes: Austin Appleby, github.com/aappleby/smhasher.

    Args:
        data: for every byte, it and the three that follow, as a little-endian number.
        starts: of the stretches, in bytes.
        ends: of the stretches.
    """
    sizes = ends - starts
    hashes: Hashes = np.zeros(len(starts), np.uint32)
    for block in range(int(sizes.max(initial=0)) // 4):
        whole = np.flatnonzero(sizes >= 4 * block + 4)
        mixed = hashes[whole] ^ _mixed(data[starts[whole] + 4 * block])
        hashes[whole] = (mixed << np.uint32(13) | mixed >> np.uint32(19)) * np.uint32(5) + np.uint32(0xE6546B64)
    rest = (1 << 8 * (sizes & 3)) - 1  # a mask for the last one to three bytes
    hashes ^= _mixed(data[ends - (sizes & 3)] & rest.astype(np.uint32))
    hashes ^= sizes.astype(np.uint32)
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 1)):
        hashes = (hashes ^ hashes >> np.uint32(shift)) * np.uint32(factor)
    return hashes.view(np.int32)


def _mixed(block: Hashes) -> Hashes:
    block = block * np.uint32(0xCC9E2D51)
    return (block << np.uint32(15) | block >> np.uint32(17)) * np.uint32(0x1B873593)


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
