"""The search index of one catalog: a flat FAISS inner-product index whose slots can be reused.

The only file that imports faiss. The index answers "every row whose inner product reaches this bound"; scores,
thresholds and filters are decided by the caller on the candidates.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import faiss
import numpy as np
from numpy.typing import NDArray

from app.core.product import Floats

FREE = -1
SLACK = 2e-5  # float32 rounding of question vectors scaled by up to 1/sqrt(w); the exact scores decide afterwards
ANSWER_BYTES = 256 << 20  # a low bound can return every row: so many queries at a time that this still fits
_RESULT_BYTES = 12  # FAISS returns an int64 and a float32 per row
QUERY_BLOCK = 4096


@dataclass(frozen=True, slots=True)
class RowSet:
    """Rows of the index: `keys` (n,) int64 product keys, `flags` (n,) uint8, `vectors` (n, dim) float32."""

    keys: NDArray[np.int64]
    flags: NDArray[np.uint8]
    vectors: Floats


@dataclass(frozen=True, slots=True)
class Found:
    """What a question found.

    Attributes:
        slots: `(n,)` int64, sorted, none of them free.
        beyond: no other row that may answer scores more with the question, rounding included; -inf if there is none.
    """

    slots: NDArray[np.int64]
    beyond: float


class FlatIndex:
    """Exact search. Not thread-safe: FAISS must not be read while it is written; the catalog holds a lock.

    A removed row leaves a free slot (zeros, key -1) that the next row fills, so that a removal moves no memory.
    """

    def __init__(self, dim: int) -> None:
        self.dim = dim
        self._index = faiss.IndexFlatIP(dim)
        self._keys = np.zeros(0, np.int64)
        self._flags = np.zeros(0, np.uint8)
        self._counts = np.zeros(4, np.int64)  # rows in use by flags
        # since FAISS 1.14.2 small batches miss the BLAS path, which is 5x faster for four queries or more
        faiss.cvar.distance_compute_blas_threshold = 4 * dim

    def __len__(self) -> int:
        """Rows in use."""
        return int(self._counts.sum())

    def kinds(self) -> set[int]:
        """The flags that occur among the rows."""
        return set(np.flatnonzero(self._counts).tolist())

    def add(self, rows: RowSet) -> None:
        """Adds rows, into free slots first."""
        slots = np.flatnonzero(self._keys == FREE)[: len(rows.keys)]
        reused = len(slots)
        if reused:
            self._matrix()[slots] = rows.vectors[:reused]
            self._keys[slots] = rows.keys[:reused]
            self._flags[slots] = rows.flags[:reused]
        self._index.add(np.ascontiguousarray(rows.vectors[reused:]))
        self._keys = np.concatenate([self._keys, rows.keys[reused:]])
        self._flags = np.concatenate([self._flags, rows.flags[reused:]])
        self._counts += np.bincount(rows.flags, minlength=4)

    def remove(self, keys: Sequence[int]) -> None:
        """Removes every row of those products; unknown keys are ignored."""
        slots = self.slots_of(keys)
        self._counts -= np.bincount(self._flags[slots], minlength=4)
        self._matrix()[slots] = 0
        self._keys[slots] = FREE

    def rows(self, slots: NDArray[np.int64]) -> RowSet:
        """Returns copies of the rows in those slots."""
        return RowSet(self._keys[slots], self._flags[slots], self._matrix()[slots])

    def slots_of(self, keys: Sequence[int]) -> NDArray[np.int64]:
        """Returns the slots that hold rows of those products."""
        return np.flatnonzero(np.isin(self._keys, np.asarray(keys, np.int64)))

    def export(self) -> RowSet:
        """Returns all rows in use."""
        return self.rows(np.flatnonzero(self._keys != FREE))

    def candidates(
        self,
        questions: Floats,
        bounds: Sequence[float],
        allowed: NDArray[np.int64] | None = None,
        nearest: int = 0,
        among: Collection[int] | None = None,
    ) -> list[Found]:
        """Finds, for each question, all rows that may reach its bound, and the nearest in any case.

        Args:
            questions: `(n, dim)` float32.
            bounds: smallest inner product per question, inclusive, less the rounding error of float32.
            allowed: keys of the products that may answer; None for all.
            nearest: so many rows are found even if they are below the bound, where there are that many.
            among: flags of the rows that may answer; None for all.
        """
        usable = self._keys != FREE
        if allowed is not None:
            usable &= np.isin(self._keys, allowed)
        if among is not None:
            usable &= np.isin(self._flags, list(among))
        count = int(usable.sum())
        if not count:
            return [Found(np.zeros(0, np.int64), -np.inf)] * len(bounds)
        params = None
        # free slots are zeros, and nearer than what is opposite
        if allowed is not None or among is not None or (nearest and not usable.all()):
            bits = np.packbits(usable, bitorder="little")
            # FAISS's type hints describe the C++ signatures and not the Python ones
            params = faiss.SearchParameters(sel=faiss.IDSelectorBitmap(bits))  # type: ignore[call-arg,arg-type]
        found = [Found(np.zeros(0, np.int64), np.inf)] * len(bounds)
        if nearest:
            found = self._nearest(questions, nearest, params, count)
        more = self._reaching(questions, {n: bounds[n] for n, one in enumerate(found) if one.beyond >= bounds[n]}, params)
        for n, slots in more.items():
            slots = np.union1d(found[n].slots, slots[usable[slots]])
            found[n] = Found(slots, bounds[n] if len(slots) < count else -np.inf)
        return found

    def _nearest(self, questions: Floats, k: int, params: faiss.SearchParameters | None, usable: int) -> list[Found]:
        """Finds the `k` nearest rows of each question, or all `usable` ones if they are no more than that."""
        scores, slots = self._index.search(np.ascontiguousarray(questions), min(k, self._index.ntotal), params=params)
        if usable <= slots.shape[1]:  # -1: there were not as many
            return [Found(np.sort(answer[answer >= 0]), -np.inf) for answer in slots]
        ends = scores[:, -1].astype(np.float64) + SLACK
        return [Found(np.sort(answer), float(end)) for answer, end in zip(slots, ends, strict=True)]

    def _reaching(
        self, questions: Floats, bounds: Mapping[int, float], params: faiss.SearchParameters | None
    ) -> dict[int, NDArray[np.int64]]:
        """Finds the slots of the rows that may reach the bounds of some of the questions, free ones among them."""
        found: dict[int, NDArray[np.int64]] = {}
        groups: dict[float, list[int]] = defaultdict(list)
        for position, bound in bounds.items():
            groups[bound].append(position)
        step = max(1, ANSWER_BYTES // (_RESULT_BYTES * max(1, self._index.ntotal)))
        for bound, positions in groups.items():
            radius = float(np.nextafter(np.float32(bound - SLACK), np.float32(-np.inf)))  # FAISS compares with >
            for start in range(0, len(positions), step):
                part = positions[start : start + step]
                ends, _, slots = self._index.range_search(np.ascontiguousarray(questions[part]), radius, params=params)
                for n, position in enumerate(part):
                    found[position] = slots[int(ends[n]) : int(ends[n + 1])]
        return found

    def _matrix(self) -> Floats:
        size = self._index.ntotal * self.dim
        if size == 0:
            return np.zeros((0, self.dim), np.float32)
        view: Floats = faiss.rev_swig_ptr(self._index.get_xb(), size).reshape(-1, self.dim)
        return view


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
    faiss.cvar.distance_compute_blas_threshold = 4 * gallery.shape[1]  # as in FlatIndex
    for start in range(0, len(queries), block):
        part = slice(start, start + block)
        scores[part], found[part] = faiss.knn(queries[part], gallery, k, faiss.METRIC_INNER_PRODUCT)
    return scores, found
