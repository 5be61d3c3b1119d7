"""Perceptual hashes: how far apart two photos look, and what that adds to a score.

A hash is the 64-bit `imagehash.phash` of a photo: 8 x 8 signs of the low frequencies of its 32 x 32 grey version,
written as 16 hexadecimal digits (Zauner, "Implementation and Benchmarking of Perceptual Image Hash Functions", 2010).
Two edits of the same photo differ in few bits. Measured on the Shopee - Price Match Guarantee listings, the share of
pairs at a distance that are the same product:

    distance   0    2    4    6    8    10   12   14   16
    same      .96  .96  .91  .92  .64  .43  .22  .06  .015
"""

from __future__ import annotations

import re

import numpy as np
from numpy.typing import NDArray

from app.core.product import Floats
from app.errors import InvalidInput

Hashes = NDArray[np.uint64]

BITS = 64
REACH = 20  # at this distance and beyond, a hash says nothing: see the table
WEIGHT = 0.6  # what an equal photo is worth, in cosine
THRESHOLD = 0.6  # of the kernel alone: distances up to 8, where more than half of the pairs are the same product

_DIGITS = re.compile(r"[0-9a-fA-F]{16}")


def parse(text: str) -> int:
    """Returns a hash written as 16 hexadecimal digits as an integer in [0, 2^64). Raises InvalidInput for other text."""
    if not _DIGITS.fullmatch(text):
        raise InvalidInput(f"{text[:40]!a} is no perceptual hash: it has 16 hexadecimal digits.")
    return int(text, 16)


def distances(hashes: Hashes, others: Hashes) -> NDArray[np.int64]:
    """Returns Hamming distances, 0 to 64, of hashes that broadcast against each other."""
    counts: NDArray[np.int64] = np.bitwise_count(hashes ^ others).astype(np.int64)
    return counts


def kernel(distance: NDArray[np.int64]) -> NDArray[np.float64]:
    """Returns how alike photos look by their distance: 1 for equal hashes, falling evenly to 0 at `REACH`."""
    return np.maximum(0.0, 1.0 - distance / REACH)


def evidence(score: NDArray[np.float64], distance: NDArray[np.int64]) -> NDArray[np.float64]:
    """Returns cosine scores in [-1, 1] raised by what the hashes say; in [-1, 1 + WEIGHT]."""
    return score + WEIGHT * kernel(distance)


def signs(hashes: Hashes) -> Floats:
    """Returns hashes as vectors, `(n,)` -> `(n, 64)` float32 of -1 and 1: their inner product is `64 - 2 * distance`."""
    data = np.ascontiguousarray(hashes, dtype=">u8").view(np.uint8).reshape(len(hashes), BITS // 8)
    return np.unpackbits(data, axis=1).astype(np.float32) * 2 - 1
