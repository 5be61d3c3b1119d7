"""8-bit codes of rows, which spare a search most of its work: what each row can score at most, proven.

Inner products of codes are whole numbers, and NumKong's kernels add them up exactly: the bounds below hold whatever the
processor. The only file that imports it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import TypeVar

import numkong
import numpy as np
from numpy.typing import NDArray

from app.catalog.faiss_index import FlatBlock, threads
from app.catalog.rows import SLACK
from app.core.product import Floats

CODE_MAX = 127
HEADROOM = 1.125  # codes are made for values so much larger than the largest seen, as making them anew reads every row
LEAST_STEP = 1e-9
SPREAD = 16
SAMPLE = 1024  # rows that say which columns are small
CHUNK = 256  # rows that are made into codes at a time, so that they stay in the cache
ROUNDING = 1 + 1e-5  # of norms in float32
LAYOUT = "8-bit codes, 2"  # of codes as bytes
TOGETHER = 32  # rows of which only the highest limit is looked at, to begin with
PACKED_FROM = 3  # questions; fewer are faster without being arranged for one matrix product

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Limits:
    """What the rows of a block can score at most with a question: `step * products + error`.

    Attributes:
        products: `(rows,)` int32 inner products of the codes.
        step: what one of them is worth.
        error: by which a true inner product can be larger, rounding included.
    """

    products: NDArray[np.int32]
    step: float
    error: float

    def highest(self, k: int, usable: NDArray[np.bool_] | None = None) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Returns the slots of the `k` highest limits, or of all rows if there are no more, and those limits.

        Args:
            k: how many, at least one.
            usable: `(rows,)` which of the rows count; None for all.
        """
        products = self.products if usable is None else self.products[usable]
        slots = np.arange(len(products))
        if len(products) > k * TOGETHER:  # the k-th highest of all is no lower than the k-th highest of the best of each few
            few = np.maximum.reduceat(products, np.arange(0, len(products), TOGETHER))
            slots = np.flatnonzero(products >= np.partition(few, -k)[-k])
        if len(slots) > k:
            slots = slots[np.argpartition(products[slots], -k)[-k:]]
        limits = np.float64(self.step) * products[slots] + self.error
        return (slots if usable is None else np.flatnonzero(usable)[slots]), limits

    def reach(self, floor: float) -> bool:
        """Tells whether any row may score so much."""
        return bool(self.products.max(initial=0) >= (floor - self.error) / self.step)

    def reaching(self, floor: float) -> NDArray[np.int64]:
        """Returns the slots of the rows that may score so much."""
        return np.flatnonzero(self.products >= (floor - self.error) / self.step)


@dataclass(frozen=True, slots=True)
class Asked:
    """Questions in codes: `unit * whole` and what is lost of each, as norms.

    Attributes:
        whole: `(n, columns)` int8, from -127 to 127.
        units: `(n,)` what one of them is worth.
        coded, lost, left_out: `(n,)` norms of `unit * whole`, of what rounding takes away, and of what has no codes.
    """

    whole: NDArray[np.int8]
    units: NDArray[np.float64]
    coded: NDArray[np.float64]
    lost: NDArray[np.float64]
    left_out: NDArray[np.float64]


class Coding:
    """Which columns have codes, and how rows are turned before: one for all blocks, so that a question is turned once."""

    def __init__(self, columns: NDArray[np.int64]) -> None:
        """Takes all columns in order, those that are left out last."""
        self.columns, self.dim = columns, coded_columns(len(columns))

    @classmethod
    def of(cls, block: FlatBlock) -> Coding:
        """Leaves out the columns that are smallest in the first rows of a block."""
        sample = np.asarray(block.matrix()[:SAMPLE], np.float32)
        by_size = np.argsort(-np.einsum("nd,nd->d", sample, sample), kind="stable")
        dim = coded_columns(len(by_size))
        return cls(np.concatenate([np.sort(by_size[:dim]), by_size[dim:]]))

    def turned(self, rows: Floats) -> tuple[Floats, Floats]:
        """Returns the columns that have codes, spread, and those that are left out."""
        ordered = np.asarray(rows[:, self.columns], np.float32)
        return spread(ordered[:, : self.dim]), ordered[:, self.dim :]

    def asked(self, questions: Floats) -> Asked:
        """Returns `(n, dim)` float32 questions, at least one, in codes."""
        turned, left_out = self.turned(questions)
        units = np.maximum(np.abs(turned).max(axis=1, keepdims=True) / np.float32(CODE_MAX), np.float32(1e-9))
        whole = np.rint(turned / units)
        norms = _norms(units * whole), _norms(turned - units * whole), _norms(left_out)
        return Asked(np.ascontiguousarray(whole, np.int8), units[:, 0].astype(np.float64), *norms)


def coded_columns(dim: int) -> int:
    """Returns how many columns have codes: rows, codes and keys together stay below 1.25 times the rows."""
    return dim * 97 // 100 // 16 * 16 or dim


class ByteCodes:
    """The rows of a block in 8 bits per dimension, and how far an inner product with them can be from the truth.

    With a row `x = step * c + r` and a question `q = unit * p + u`, codes `c` and `p` whole numbers, and `z` what is left
    out of a row:

        |q . x - unit * step * (p . c)|  <=  |unit * p| |r| + |u| |x| + |q left out| |z|      (Cauchy-Schwarz)

    The largest `|r|`, `|x|` and `|z|` of the rows are kept, so the bound holds for every one of them.
    """

    def __init__(self, block: FlatBlock, coding: Coding, step: float = LEAST_STEP) -> None:
        """Makes the codes of the rows of a block, which it must be told of from then on.

        Args:
            block: the rows.
            coding: that of all blocks.
            step: to begin with; it becomes larger as rows need it, which makes the codes of all rows anew.
        """
        self._block, self.coding, self._step = block, coding, step
        self._make()

    def beside(self, block: FlatBlock) -> ByteCodes:
        """Returns the codes of another block, most likely of rows like these."""
        return ByteCodes(block, self.coding, self._step)

    def to_bytes(self) -> bytes:
        """Returns the codes, and what their bounds are made of, so that they need not be made again."""
        numbers = np.array([self._step, self._lost, self._norm, self._left_out])
        return b"".join((self.coding.columns.tobytes(), numbers.tobytes(), self._codes[: self._count].tobytes()))

    @classmethod
    def from_bytes(cls, block: FlatBlock, kept: NDArray[np.uint8], coding: Coding | None) -> ByteCodes:
        """Takes over codes of the rows of a block.

        Args:
            block: the rows.
            kept: as `to_bytes` gave them, in memory that is theirs from now on.
            coding: that of the blocks before; None for the first.

        Raises:
            ValueError: what was kept are not codes of so many rows, or of another coding.
        """
        dim, count = block.matrix().shape[1], len(block)
        columns, numbers, codes = np.split(kept, np.cumsum([8 * dim, 8 * 4]))
        own = Coding(columns.view(np.int64))
        if codes.size != count * own.dim:
            raise ValueError(f"codes of {codes.size / own.dim:g} rows, not of {count}")
        if coding is not None and not np.array_equal(own.columns, coding.columns):
            raise ValueError("codes of other columns than those of the block before")
        made = cls.__new__(cls)
        made._block, made.coding = block, coding or own
        made._step, made._lost, made._norm, made._left_out = numbers.view(np.float64).tolist()
        made._codes, made._count = codes.view(np.int8).reshape(count, own.dim), count
        return made

    def __len__(self) -> int:
        """Rows."""
        return self._count

    def _make(self) -> None:
        rows = self._block.matrix()
        while True:
            self._codes, self._count = np.empty((len(rows), self.coding.dim), np.int8), 0
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
            kept, left_out = self.coding.turned(vectors[start : start + CHUNK])
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
            larger = np.empty((max(wanted, 2 * self._count), self.coding.dim), np.int8)
            larger[: self._count] = self._codes[: self._count]
            self._codes = larger

    def limits(self, asked: Asked, products: NDArray[np.int32]) -> list[Limits]:
        """Returns what the rows can score at most with each question, given their `products` with it."""
        errors = self._lost * asked.coded + self._norm * asked.lost + self._left_out * asked.left_out + SLACK
        steps = self._step * asked.units
        return [Limits(*one) for one in zip(products, steps.tolist(), errors.tolist(), strict=True)]

    def products(self, whole: NDArray[np.int8]) -> NDArray[np.int32]:
        """Returns the `(n, rows)` inner products of questions in codes, `(n, columns)`, with the codes."""
        rows = self._codes[: self._count]
        if len(whole) < PACKED_FROM:
            found = numkong.cdist(rows, whole, metric="dot")
        else:
            found = numkong.dots_packed(rows, numkong.dots_pack(whole))
        return np.ascontiguousarray(np.asarray(found).T, np.int32)


def make_codes(blocks: Sequence[FlatBlock]) -> list[ByteCodes]:
    """Makes the codes of all blocks of an index, several at the same time."""
    coding = Coding.of(blocks[0])
    return _each(lambda block: ByteCodes(block, coding), blocks)


def limits_of(blocks: Sequence[ByteCodes], questions: Floats) -> Iterator[list[Limits]]:
    """Yields for each question what the rows of each block can score at most; all blocks have the same coding."""
    asked = blocks[0].coding.asked(questions)
    products = _each(lambda codes: codes.products(asked.whole), blocks)
    return map(list, zip(*(codes.limits(asked, one) for codes, one in zip(blocks, products, strict=True)), strict=True))


def _each(work: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """Works on several items at the same time, where there are threads for it."""
    if len(items) < 2 or threads() < 2:
        return [work(one) for one in items]
    return list(_pool().map(work, items))


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
