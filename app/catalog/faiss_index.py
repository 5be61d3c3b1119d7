"""What FAISS does for the catalog: exact search in blocks of rows, and the 8-bit codes that spare most of it.

With `app.catalog.faiss_lists` the only file that imports faiss. Everything here answers in positions within one block;
`app.catalog.row_index` knows which products they are.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from app.catalog.rows import SLACK, Hits
from app.core.product import Floats

QUERY_BLOCK = 4096
FIRST, MORE = 64, 8  # an index that cannot search by a bound is asked for more and more rows until the last is below it
CODE_MAX = 127
HEADROOM = 1.125  # codes are made for values so much larger than the largest seen, as making them anew reads every row
SPREAD = 16
SAMPLE = 1024  # rows that say which columns are small
CHUNK = 256  # rows that are made into codes at a time, so that they stay in the cache
ROUNDING = 1 + 1e-5  # of norms in float32

Positions = NDArray[np.int64]


class FlatBlock:
    """Some rows, one after the other, and exact search among them.

    Not thread-safe: FAISS must not be read while it is written; the catalog holds a lock.
    """

    def __init__(self, dim: int, *, half: bool = False) -> None:
        """Makes an empty block.

        Args:
            dim: columns.
            half: store float16 instead of float32.
        """
        self._dim, self._dtype = dim, np.float16 if half else np.float32
        self._index: Any = (
            faiss.IndexScalarQuantizer(dim, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)
            if half
            else faiss.IndexFlatIP(dim)
        )
        _use_blas(dim)

    def __len__(self) -> int:
        """Rows."""
        return int(self._index.ntotal)

    def add(self, vectors: Floats) -> None:
        """Adds `(n, dim)` rows at the end; float16 from a block like this one are taken as they are."""
        self._index.add(np.ascontiguousarray(vectors, np.float32))

    def matrix(self) -> NDArray[Any]:
        """Returns the `(n, dim)` rows as they are stored, float32 or float16; a view, valid until the next change."""
        return _view(self._index, self._dtype, self._dim)

    def scores(self, question: Floats, positions: Positions) -> Floats:
        """Returns the `(n,)` inner products of `(dim,)` with some rows."""
        if self._dtype != np.float32:
            return np.asarray(self.matrix()[positions], np.float32) @ question
        scores = np.empty(len(positions), np.float32)
        asked, places = np.ascontiguousarray(question), np.ascontiguousarray(positions)
        pointers = [faiss.swig_ptr(array) for array in (asked, scores, places)]
        self._index.compute_distance_subset(1, pointers[0], len(positions), *pointers[1:])  # copies no rows
        return scores

    def pop(self) -> None:
        """Forgets the last row."""
        _pop(self._index)

    def search(
        self, questions: Floats, bounds: NDArray[np.float64], k: int, usable: NDArray[np.bool_] | None = None
    ) -> list[Hits]:
        """Finds, for each question, the `k` nearest rows and all others that may reach its bound.

        Args:
            questions: `(n, dim)` float32.
            bounds: `(n,)` smallest inner products, inclusive, less the rounding error of float32.
            k: so many rows are found even if they are below the bound, where there are that many.
            usable: `(rows,)` which rows may answer; None for all. Slow for many questions.
        """
        params, count = None, len(self)
        if usable is not None:
            params, count = faiss.SearchParameters(sel=selector_of(usable)), int(usable.sum())  # type: ignore[call-arg]
        k = min(k, count)
        if not count:
            return [_NOTHING] * len(questions)
        found = [Hits(_NOTHING.slots, _NOTHING.scores, np.inf)] * len(questions)
        if k:
            found = _nearest(self._index, questions, k, count, params)
        for bound in np.unique(bounds).tolist():
            below = [n for n in np.flatnonzero(bounds == bound).tolist() if found[n].beyond >= bound]
            for n, more in zip(below, self._reaching(questions[below], bound, params, count), strict=True):
                found[n] = _joined(found[n], more, count)
        return found

    def _reaching(self, questions: Floats, bound: float, params: Any, count: int) -> list[Hits]:
        """Finds the rows that may reach a bound."""
        if self._dtype == np.float32 and len(questions):
            radius = float(np.nextafter(np.float32(bound - SLACK), np.float32(-np.inf)))  # FAISS compares with >
            ends, scores, slots = self._index.range_search(questions, radius, params=params)
            parts = [slice(int(start), int(end)) for start, end in pairwise(ends)]
            return [Hits(slots[part], scores[part], bound) for part in parts]
        found = []
        for (
            question
        ) in questions:  # by a radius, FAISS searches quantised rows 6 to 25 times slower than for a number of them
            k = FIRST
            while (hits := _nearest(self._index, question[None], min(k, count), count, params)[0]).beyond >= bound:
                k *= MORE
            found.append(hits)
        return found


class ByteCodes:
    """The rows of a block in 8 bits per dimension, and how far an inner product with them can be from the truth.

    With a row `x = step * c + r` and a question `q = unit * p + u`, codes `c` and `p` whole numbers, and `z` what is left
    out of a row:

        |q . x - unit * step * (p . c)|  <=  |unit * p| |r| + |u| |x| + |q left out| |z|      (Cauchy-Schwarz)

    The largest `|r|`, `|x|` and `|z|` of the rows are kept, so the bound holds for every one of them.
    """

    def __init__(self, block: FlatBlock) -> None:
        """Makes the codes of the rows of a block, which it must be told of from then on."""
        self._block = block
        dim = block.matrix().shape[1]
        # one column of a hundred is left out: rows, codes and keys together stay below 1.25 times the rows
        self._dim = dim * 99 // 100 // 16 * 16 or dim
        self._columns = np.arange(dim)
        self._step = 1e-9
        self._make()

    def __len__(self) -> int:
        """Rows."""
        return int(self._index.ntotal)

    def _make(self) -> None:
        sample = np.asarray(self._block.matrix()[:SAMPLE], np.float32)
        by_size = np.argsort(-np.einsum("nd,nd->d", sample, sample), kind="stable")
        self._columns = np.concatenate([np.sort(by_size[: self._dim]), by_size[self._dim :]])  # the smallest are left out
        while True:
            self._index: Any = faiss.IndexScalarQuantizer(
                self._dim, faiss.ScalarQuantizer.QT_8bit_direct_signed, faiss.METRIC_INNER_PRODUCT
            )
            self._lost = self._norm = self._left_out = 0.0
            if self._encode(self._block.matrix()):
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
            codes = _view(self._index, np.uint8, self._dim)
            codes[position] = codes[-1]
            self.pop()

    def pop(self) -> None:
        """Follows the block, whose last row is gone."""
        _pop(self._index)

    def _encode(self, vectors: Floats) -> bool:
        """Adds codes; False if something is too large for them, then the step has been made larger for the next try."""
        for start in range(0, len(vectors), CHUNK):
            kept, left_out = self._turned(vectors[start : start + CHUNK])
            largest = float(np.abs(kept).max(initial=0))
            if largest > CODE_MAX * self._step:
                self._step = HEADROOM * largest / CODE_MAX
                return False
            codes = np.rint(kept / np.float32(self._step))
            self._index.add(codes)
            self._lost = max(self._lost, _longest(kept - codes * np.float32(self._step)))
            self._norm = max(self._norm, _longest(kept))
            self._left_out = max(self._left_out, _longest(left_out))
        return True

    def _turned(self, rows: Floats) -> tuple[Floats, Floats]:
        """Returns the columns that have codes, spread, and those that are left out."""
        ordered = np.asarray(rows[:, self._columns], np.float32)
        return spread(ordered[:, : self._dim]), ordered[:, self._dim :]

    def search(self, question: Floats, depth: int) -> Hits:
        """Finds the rows with the largest inner products by their codes.

        Args:
            question: `(dim,)` float32.
            depth: how many rows.

        Returns:
            Rows with the most that their inner products can be, which is also the most of all others.
        """
        turned, left_out = self._turned(question[None])
        kept = turned[0]
        unit = np.float32(max(float(np.abs(kept).max(initial=0)) / CODE_MAX, 1e-9))
        whole = np.rint(kept / unit)
        scores, slots = self._index.search(whole[None], min(depth, len(self)))
        error = self._lost * _longest(unit * whole[None]) + self._norm * _longest((kept - unit * whole)[None])
        error += self._left_out * _longest(left_out)
        most = scores[0] * np.float32(unit * self._step) + np.float32(error + SLACK)
        return Hits(slots[0], most, float(most[-1]) if len(most) < len(self) else -np.inf)


_NOTHING = Hits(np.zeros(0, np.int64), np.zeros(0, np.float32))


def _nearest(index: Any, questions: Floats, k: int, count: int, params: Any) -> list[Hits]:
    """Finds the `k` nearest rows of each question, `k` at most the `count` of those that may answer."""
    scores, slots = index.search(questions, k, params=params)
    ends = (scores[:, -1].astype(np.float64) + SLACK).tolist() if k < count else [-np.inf] * len(questions)
    return [Hits(places, values, end) for places, values, end in zip(slots, scores, ends, strict=True)]


def selector_of(usable: NDArray[np.bool_]) -> Any:
    """Returns FAISS's selector of the rows that may answer."""
    # FAISS's type hints describe the C++ signatures and not the Python ones
    return faiss.IDSelectorBitmap(np.packbits(usable, bitorder="little"))  # type: ignore[arg-type,call-arg]


def _joined(nearest: Hits, more: Hits, count: int) -> Hits:
    """Joins the nearest rows and those that may reach a bound, of `count` in all."""
    slots, first = np.unique(np.concatenate([more.slots, nearest.slots]), return_index=True)
    return Hits(slots, np.concatenate([more.scores, nearest.scores])[first], more.beyond if len(slots) < count else -np.inf)


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


def _longest(rows: Floats) -> float:
    """Returns the largest norm of some rows, not rounded down."""
    return float(np.sqrt(np.einsum("nd,nd->n", rows, rows, dtype=np.float32).max(initial=0))) * ROUNDING


def _view(index: Any, dtype: Any, dim: int) -> NDArray[Any]:
    size = index.ntotal * dim * np.dtype(dtype).itemsize
    codes = faiss.rev_swig_ptr(index.codes.data(), size) if size else np.zeros(0, np.uint8)
    rows: NDArray[Any] = np.asarray(codes).view(dtype).reshape(-1, dim)
    return rows


def _pop(index: Any) -> None:
    """Forgets the last row; FAISS's own way to remove one would look at all of them."""
    index.codes.resize((index.ntotal - 1) * index.code_size)
    index.ntotal -= 1


def _use_blas(dim: int) -> None:
    # since FAISS 1.14.2 small batches miss the BLAS path, which is faster for four queries or more
    faiss.cvar.distance_compute_blas_threshold = 4 * dim


def nearest(queries: Floats, gallery: Floats, k: int, block: int = QUERY_BLOCK) -> tuple[Floats, NDArray[np.int64]]:
    """Finds the k largest inner products of each query, exactly, without an index.

    Args:
        queries: `(n, dim)` float32.
        gallery: `(rows, dim)` float32.
        k: how many; a smaller gallery answers with all its rows.
        block: queries at a time.

    Returns:
        `(n, min(k, rows))` float32 inner products, falling, and int64 positions in the gallery. Rounding is float32's:
        scores that decide something are computed again by the caller.
    """
    k = min(k, len(gallery))
    scores = np.zeros((len(queries), k), np.float32)
    found = np.zeros((len(queries), k), np.int64)
    if k == 0:
        return scores, found
    _use_blas(gallery.shape[1])
    for start in range(0, len(queries), block):
        part = slice(start, start + block)
        scores[part], found[part] = faiss.knn(queries[part], gallery, k, faiss.METRIC_INNER_PRODUCT)
    return scores, found
