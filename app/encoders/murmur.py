"""MurmurHash3 (Austin Appleby, public domain; the variant of 32 bits, seed 0) of many pieces of a text at once."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Hashes = NDArray[np.uint32]

_FIRST, _SECOND = np.uint32(0xCC9E2D51), np.uint32(0x1B873593)


def murmur3(text: NDArray[np.uint8], starts: NDArray[np.int64], ends: NDArray[np.int64]) -> Hashes:
    """Returns the hash of each piece of `text`.

    Args:
        text: `(bytes,)`.
        starts: `(n,)`, the first byte of each piece.
        ends: `(n,)`, the byte after its last.

    Returns:
        `(n,)` uint32.
    """
    lengths = ends - starts
    padded = np.concatenate([text, np.zeros(3, np.uint8)]).astype(np.uint32)
    fours: Hashes = np.zeros(len(text), np.uint32)  # the four bytes from each place on
    for place in range(4):
        fours |= padded[place : len(text) + place] << np.uint32(8 * place)
    hashes = np.zeros(len(starts), np.uint32)
    for block in range(int(lengths.max(initial=0)) // 4):
        whole = np.flatnonzero(lengths >= 4 * (block + 1))
        mixed = hashes[whole] ^ _scrambled(fours[starts[whole] + 4 * block])
        hashes[whole] = _rotated(mixed, 13) * np.uint32(5) + np.uint32(0xE6546B64)
    rest = lengths % 4
    some = np.flatnonzero(rest)
    hashes[some] ^= _scrambled(fours[ends[some] - rest[some]] & ((1 << 8 * rest[some]) - 1).astype(np.uint32))
    hashes ^= lengths.astype(np.uint32)
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        hashes ^= hashes >> np.uint32(shift)
        hashes *= np.uint32(factor)
    return hashes ^ hashes >> np.uint32(16)


def _scrambled(block: Hashes) -> Hashes:
    return _rotated(block * _FIRST, 15) * _SECOND


def _rotated(values: Hashes, by: int) -> Hashes:
    return values << np.uint32(by) | values >> np.uint32(32 - by)
