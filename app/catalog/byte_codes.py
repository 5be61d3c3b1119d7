"""8-bit codes of rows, which spare a search most of its work: what each row can score at most, proven.

Inner products of codes are whole numbers, and NumKong's kernels add them up exactly: the bounds below hold whatever the
processor. The only file that imports it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numkong
import numpy as np
from numpy.typing import NDArray

from app.catalog.faiss_index import FlatBlock, threads
from app.catalog.rows import SLACK, Hits
from app.core.product import Floats

CODE_MAX = 127
HEADROOM = 1.125  # codes are made for values so much larger than the largest seen, as making them anew reads every row
SPREAD = 16
SAMPLE = 1024  # rows that say which columns are small
CHUNK = 256  # rows that are made into codes at a time, so that they stay in the cache
ROUNDING = 1 + 1e-5  # of norms in float32
LAYOUT = "8-bit codes, 1"  # of codes as bytes
PACKED_FROM = 3  # questions; fewer are faster without being arranged for one matrix product


class ByteCodes:
    """The rows of a block in 8 bits per dimension, and how far an inner product with them can be from the truth.

    With a row `x = step * c + r` and a question `q = unit * p + u`, codes `c` and `p` whole numbers, and `z` what is left
    out of a row:

        |q . x - unit * step * (p . c)|  <=  |unit * p| |r| + |u| |x| + |q left out| |z|      (Cauchy-Schwarz)

    The largest `|r|`, `|x|` and `|z|` of the rows are kept, so the bound holds for every one of them.
    """

    def __init__(self, block: FlatBlock, kept: NDArray[np.uint8] | None = None) -> None:
        """Makes the codes of the rows of a block, which it must be told of from then on.

        Args:
            block: the rows.
            kept: codes of the same rows, as `to_bytes` gave them, in memory that is theirs from now on.

        Raises:
            ValueError: what was kept are not codes of so many rows.
        """
        self._block = block
        dim = block.matrix().shape[1]
        # three columns of a hundred are left out: rows, codes and keys together stay below 1.25 times the rows
        self._dim = dim * 97 // 100 // 16 * 16 or dim
        self._columns = np.arange(dim)
        self._step = 1e-9
        if kept is None:
            self._make()
        else:
            self._take(kept)

    def to_bytes(self) -> bytes:
        """Returns the codes, and what their bounds are made of, so that they need not be made again."""
        numbers = np.array([self._step, self._lost, self._norm, self._left_out])
        return b"".join((self._columns.tobytes(), numbers.tobytes(), self._codes[: self._count].tobytes()))

    def _take(self, kept: NDArray[np.uint8]) -> None:
        dim, count = len(self._columns), len(self._block)
        columns, numbers, codes = np.split(kept, np.cumsum([8 * dim, 8 * 4]))
        if codes.size != count * self._dim:
            raise ValueError(f"codes of {codes.size / self._dim:g} rows, not of {count}")
        self._columns = columns.view(np.int64)
        self._step, self._lost, self._norm, self._left_out = numbers.view(np.float64).tolist()
        self._codes, self._count = codes.view(np.int8).reshape(count, self._dim), count

    def __len__(self) -> int:
        """Rows."""
        return self._count

    def _make(self) -> None:
        rows = self._block.matrix()
        sample = np.asarray(rows[:SAMPLE], np.float32)
        by_size = np.argsort(-np.einsum("nd,nd->d", sample, sample), kind="stable")
        self._columns = np.concatenate([np.sort(by_size[: self._dim]), by_size[self._dim :]])  # the smallest are left out
        while True:
            self._codes, self._count = np.empty((len(rows), self._dim), np.int8), 0
            self._lost = self._norm = self._left_out = 0.0
            if self._encode(rows):
                return

    def add(self, vectors: Floats) -> None:
        """Follows the block, to whose end these rows have been added."""
        if not self._encode(vectors):
            self._make()

    def replace(self, position: int) -> None:
        """Follows the block, where one row has been replaced."""
        row = self._block.matrix()[position : position + 1]
        self.add(row)  # at the end, from where its codes move
        if len(self) > len(self._block):
            self._codes[position] = self._codes[self._count - 1]
            self.pop()

    def pop(self) -> None:
        """Follows the block, whose last row is gone."""
        self._count -= 1

    def _encode(self, vectors: Floats) -> bool:
        """Adds codes; False if something is too large for them, then the step has been made larger for the next try."""
        self._make_room(len(vectors))
        for start in range(0, len(vectors), CHUNK):
            kept, left_out = self._turned(vectors[start : start + CHUNK])
            largest = float(np.abs(kept).max(initial=0))
            if largest > CODE_MAX * self._step:
                self._step = HEADROOM * largest / CODE_MAX
                return False
            codes = np.rint(kept / np.float32(self._step))
            self._codes[self._count : self._count + len(codes)] = codes
            self._count += len(codes)
            self._lost = max(self._lost, float(_norms(kept - codes * np.float32(self._step)).max(initial=0)))
            self._norm = max(self._norm, float(_norms(kept).max(initial=0)))
            self._left_out = max(self._left_out, float(_norms(left_out).max(initial=0)))
        return True

    def _make_room(self, rows: int) -> None:
        wanted = self._count + rows
        if wanted > len(self._codes):  # by doubling, so that rows that come one by one are not copied each time
            larger = np.empty((max(wanted, 2 * self._count), self._dim), np.int8)
            larger[: self._count] = self._codes[: self._count]
            self._codes = larger

    def _turned(self, rows: Floats) -> tuple[Floats, Floats]:
        """Returns the columns that have codes, spread, and those that are left out."""
        ordered = np.asarray(rows[:, self._columns], np.float32)
        return spread(ordered[:, : self._dim]), ordered[:, self._dim :]

    def search(self, questions: Floats, depth: int) -> list[Hits]:
        """Finds, for each question, the rows with the largest inner products by their codes.

        Args:
            questions: `(n, dim)` float32, at least one.
            depth: how many rows.

        Returns:
            Rows with the most that their inner products can be, which is also the most of all others.
        """
        turned, left_out = self._turned(questions)
        units = np.maximum(np.abs(turned).max(axis=1, keepdims=True) / np.float32(CODE_MAX), np.float32(1e-9))
        whole = np.rint(turned / units)
        errors = self._lost * _norms(units * whole) + self._norm * _norms(turned - units * whole)
        errors += self._left_out * _norms(left_out)
        found = []
        for products, unit, error in zip(self._products(whole), units[:, 0].tolist(), errors.tolist(), strict=True):
            slots, beyond = np.arange(len(self)), -np.inf
            if depth < len(self):
                slots = np.argpartition(products, -depth)[-depth:]
            most = (products[slots] * (unit * self._step) + (error + SLACK)).astype(np.float32)
            if depth < len(self):
                beyond = float(most.min())
            found.append(Hits(slots, most, beyond))
        return found

    def _products(self, whole: Floats) -> NDArray[np.int32]:
        """Returns the `(n, rows)` inner products of whole numbers, `(n, dim)` from -127 to 127, with the codes."""
        asked, rows = whole.astype(np.int8), self._codes[: self._count]
        if len(asked) < PACKED_FROM:
            found = numkong.cdist(rows, asked, metric="dot")
        else:
            found = numkong.dots_packed(rows, numkong.dots_pack(asked))
        return np.ascontiguousarray(np.asarray(found).T, np.int32)


def make_codes(blocks: Sequence[FlatBlock]) -> list[ByteCodes]:
    """Makes the codes of blocks, several at the same time."""
    if len(blocks) < 2 or threads() < 2:
        return [ByteCodes(block) for block in blocks]
    return list(_pool().map(ByteCodes, blocks))


def search_codes(blocks: Sequence[ByteCodes], questions: Floats, depth: int) -> Iterator[list[Hits]]:
    """Yields what `ByteCodes.search` finds in each block; several are searched at the same time."""
    if len(blocks) < 2 or threads() < 2:
        return (codes.search(questions, depth) for codes in blocks)
    return _pool().map(lambda codes: codes.search(questions, depth), blocks)


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads(), thread_name_prefix="codes")


def spread(rows: Floats) -> Floats:
    """Turns rows so that what is in one column is in 16: no value is much larger than the others, and a step fits all.

    Inner products stay as they are (it is a part of the Hadamard transform). Were some columns left as large as the
    towers make them, the steps of all would be twice as large.
    """
    parts = 1
    turned = rows
    while parts < SPREAD and rows.shape[1] % (2 * parts) == 0:
        pairs = turned.reshape(len(rows), parts, 2, -1)
        turned = np.stack([pairs[:, :, 0] + pairs[:, :, 1], pairs[:, :, 0] - pairs[:, :, 1]], axis=2).reshape(rows.shape)
        parts *= 2
    return turned * np.float32(parts**-0.5)


def _norms(rows: Floats) -> NDArray[np.float64]:
    """Returns the norms of some rows, not rounded down."""
    found: NDArray[np.float64] = np.sqrt(np.einsum("nd,nd->n", rows, rows, dtype=np.float32)).astype(np.float64) * ROUNDING
    return found
