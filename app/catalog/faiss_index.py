"""What FAISS does for the catalog: exact search in blocks of rows.

With `app.catalog.faiss_lists` the only file that imports faiss. Everything here answers in positions within one block;
`app.catalog.row_index` knows which products they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from app.catalog.rows import SLACK, Hits
from app.core.product import Floats

QUERY_BLOCK = 4096
FIRST, MORE = 64, 8  # an index that cannot search by a bound is asked for more and more rows until the last is below it

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
        self._adopted: NDArray[Any] | None = None  # the rows, while they lie in memory that is not FAISS's
        self._index: Any = self._empty()
        _use_blas(dim)

    def _empty(self) -> Any:
        if self._dtype == np.float32:
            return faiss.IndexFlatIP(self._dim)
        return faiss.IndexScalarQuantizer(self._dim, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)

    def __len__(self) -> int:
        """Rows."""
        return int(self._index.ntotal)

    def add(self, vectors: Floats) -> None:
        """Adds `(n, dim)` rows at the end; float16 from a block like this one are taken as they are."""
        if self._adopted is not None:  # FAISS's memory can grow, this cannot
            rows, self._adopted, self._index = self._adopted, None, self._empty()
            self.add(rows)
        # of two float16 that are as near, FAISS takes the larger one, and all others the even one
        self._index.add(np.ascontiguousarray(np.asarray(vectors, self._dtype), np.float32))

    def adopt(self, rows: NDArray[Any]) -> None:
        """Becomes a block of `(n, dim)` rows that stay where they are, in memory that is the block's to write to.

        Args:
            rows: in the type that the block stores; others are copied.
        """
        rows = np.ascontiguousarray(rows, self._dtype)
        bytes_: Any = faiss.MaybeOwnedVectorUInt8  # whose type hints lack some of what it has
        kept_by_nobody = bytes_().owner  # but by the attribute below
        self._index.codes = bytes_.create_view(faiss.swig_ptr(rows.view(np.uint8)), rows.nbytes, kept_by_nobody)
        self._index.ntotal, self._adopted = len(rows), rows

    def matrix(self) -> NDArray[Any]:
        """Returns the `(n, dim)` rows as they are stored, float32 or float16; a view, valid until the next change."""
        return _view(self._index, self._dtype, self._dim) if self._adopted is None else self._adopted

    def scores(self, question: Floats, positions: Positions) -> Floats:
        """Returns the `(n,)` inner products of `(dim,)` with some rows."""
        if self._dtype != np.float32:
            return np.asarray(self.matrix()[positions], np.float32) @ question
        scores = np.empty(len(positions), np.float32)
        asked, places = np.ascontiguousarray(question), np.ascontiguousarray(positions)
        pointers = [faiss.swig_ptr(array) for array in (asked, scores, places)]
        with _alone():
            self._index.compute_distance_subset(1, pointers[0], len(positions), *pointers[1:])  # copies no rows
        return scores

    def pop(self) -> None:
        """Forgets the last row."""
        if self._adopted is None:
            _pop(self._index)
        else:
            self.adopt(self._adopted[:-1])

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


def _view(index: Any, dtype: Any, dim: int) -> NDArray[Any]:
    size = index.ntotal * dim * np.dtype(dtype).itemsize
    codes = faiss.rev_swig_ptr(index.codes.data(), size) if size else np.zeros(0, np.uint8)
    rows: NDArray[Any] = np.asarray(codes).view(dtype).reshape(-1, dim)
    return rows


def _pop(index: Any) -> None:
    """Forgets the last row; FAISS's own way to remove one would look at all of them."""
    index.codes.resize((index.ntotal - 1) * index.code_size)
    index.ntotal -= 1


def threads() -> int:
    """Returns how many threads a search may take: what `OMP_NUM_THREADS` says, else one for each core."""
    return int(faiss.omp_get_max_threads())


@contextmanager
def _alone() -> Iterator[None]:
    """Keeps this thread's work to this thread: FAISS shares one question with others, that have nothing to do for it.

    It waits for each of them to be woken up, which on busy cores takes longer than the work.
    """
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)  # of this thread
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


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
