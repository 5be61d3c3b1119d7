"""Approximate search: rows in lists around centres, one bit per dimension, and only the nearest lists are read.

FAISS's inverted lists with RaBitQ codes (Gao and Long, 2024: "RaBitQ: Quantizing High-Dimensional Vectors with a
Theoretical Error Bound"). What they find is looked up and scored from the stored vectors by `app.catalog.blocks`.
"""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from app.catalog.byte_codes import spread
from app.catalog.faiss_index import Positions, selector_of
from app.catalog.rows import Hits
from app.core.product import Floats

LISTS = 256
SAMPLE_EACH, ROUNDS = 64, 8  # rows per list, and rounds, that centres are found with
SAMPLE = LISTS * SAMPLE_EACH
PROBES = 32  # lists that are read for a question; a quarter of them finds hardly more matches
QUERY_BITS = 4
REMADE_AFTER = 2  # rows added since, for each row that the centres were found with
LAYOUT = f"lists of FAISS {faiss.__version__}, 1"  # as bytes: the codes of another version may mean something else
KEPT = ("centres", "counts", "positions", "codes", "past")


class Lists:
    """Lists of rows by position, of rows that are near in some columns. Not thread-safe: the catalog holds a lock."""

    def __init__(self, centres: Floats, columns: slice, made_with: int, added: int = 0) -> None:
        """Makes empty lists.

        Args:
            centres: `(lists, dim)` of spread rows.
            columns: see `make`.
            made_with: so many rows the centres were found with.
            added: so many rows have come since.
        """
        self._columns, self._made_with, self._added = columns, made_with, added
        dim = centres.shape[1]
        self._centres = faiss.IndexFlatIP(dim)  # FAISS does not keep it alive by itself
        self._centres.add(centres)
        self._index: Any = faiss.IndexIVFRaBitQ(self._centres, dim, len(centres), faiss.METRIC_INNER_PRODUCT)
        self._index.is_trained = True  # there is nothing to be found but the centres
        self._map()

    def _map(self) -> None:
        """Makes FAISS remember where each row is, so that one is removed without a look at the others."""
        self._index.set_direct_map_type(faiss.DirectMap.NoMap)  # type: ignore[attr-defined]
        self._index.set_direct_map_type(faiss.DirectMap.Hashtable)  # type: ignore[attr-defined]

    @classmethod
    def make(cls, count: int, parts: Iterator[Floats], sample: Floats, columns: slice = slice(None)) -> Lists:
        """Finds centres and fills the lists.

        Args:
            count: rows.
            parts: all rows, in order.
            sample: some of them, `(n, dim)`, that stand for all.
            columns: what questions are about; they have zeros elsewhere.
        """
        lists = cls(_centres(spread(sample[:, columns])), columns, count)
        start = 0
        for part in parts:
            lists.add(np.arange(start, start + len(part)), part)
            start += len(part)
        lists._added = 0
        return lists

    def to_bytes(self) -> bytes:
        """Returns the lists as NumPy arrays, a bit for each column of a row, so that they need not be made again."""
        inside, size = self._index.invlists, self._index.code_size
        counts = np.array([inside.list_size(n) for n in range(self._index.nlist)], np.int64)
        found = [n for n in range(len(counts)) if counts[n]]
        positions = [faiss.rev_swig_ptr(inside.get_ids(n), int(counts[n])) for n in found]
        codes = [faiss.rev_swig_ptr(inside.get_codes(n), int(counts[n]) * size).reshape(-1, size) for n in found]
        stream = BytesIO()
        np.savez(
            stream,
            allow_pickle=False,
            centres=self._centres.reconstruct_n(0, self._index.nlist),
            counts=counts,
            positions=np.concatenate([np.zeros(0, np.int64), *positions]),
            codes=np.concatenate([np.zeros((0, size), np.uint8), *codes]),
            past=np.array([self._made_with, self._added], np.int64),
        )
        return stream.getvalue()

    @classmethod
    def from_bytes(cls, kept: NDArray[np.uint8], columns: slice, rows: int) -> Lists:
        """Returns the lists that `to_bytes` has written, in this `LAYOUT`.

        Args:
            kept: the bytes.
            columns: see `make`.
            rows: that are in the lists.

        Raises:
            ValueError: they are not lists of so many rows.
        """
        with np.load(BytesIO(kept.data), allow_pickle=False) as arrays:
            centres, counts, positions, codes, past = (arrays[name] for name in KEPT)
        lists = cls(centres, columns, *past.tolist())
        if not np.array_equal(np.sort(positions), np.arange(rows)):
            raise ValueError(f"lists of {len(positions)} rows, not of {rows}")
        if codes.shape != (rows, lists._index.code_size) or counts.shape != (len(centres),) or counts.sum() != rows:
            raise ValueError("lists of another shape")
        ends = np.cumsum(counts).tolist()
        for n, (end, count) in enumerate(zip(ends, counts.tolist(), strict=True)):
            own, of_own = (np.ascontiguousarray(part[end - count : end]) for part in (positions, codes))
            lists._index.invlists.add_entries(n, count, faiss.swig_ptr(own), faiss.swig_ptr(of_own))
        lists._index.ntotal = rows
        lists._map()
        return lists

    @property
    def worn(self) -> bool:
        """True if so much has been added since the centres were found that they should be found anew."""
        return self._added > REMADE_AFTER * self._made_with

    def add(self, positions: Positions, vectors: NDArray[Any]) -> None:
        """Adds rows, `(n,)` and `(n, dim)`."""
        self._index.add_with_ids(spread(np.asarray(vectors[:, self._columns], np.float32)), positions)
        self._added += len(positions)

    def remove(self, positions: Positions) -> None:
        """Removes rows."""
        self._index.remove_ids(faiss.IDSelectorArray(positions))

    def suit(self, question: Floats) -> bool:
        """Says whether a question, `(dim,)`, is about these columns only."""
        return bool(np.count_nonzero(question) == np.count_nonzero(question[self._columns]))

    def search(self, questions: Floats, depth: int, usable: NDArray[np.bool_] | None = None) -> list[Hits]:
        """Finds rows that are probably near.

        Args:
            questions: `(n, dim)` float32.
            depth: how many rows for each.
            usable: `(rows,)` which rows may answer; None for all.

        Returns:
            Rows with estimates of their inner products, the last of which stands for what was not found.
        """
        found: list[Hits] = []
        params = faiss.IVFRaBitQSearchParameters()
        params.qb, params.nprobe = QUERY_BITS, min(PROBES, self._index.nlist)
        if usable is not None:
            selector = selector_of(usable)  # a name keeps it alive, as the parameters do not
            params.sel = selector
        for question in questions:
            scores, slots = self._index.search(spread(question[None, self._columns]), depth, params=params)
            real = slots[0] >= 0
            beyond = float(scores[0, -1]) if real.all() else -np.inf
            found.append(Hits(slots[0][real], scores[0][real], beyond))
        return found


def _centres(sample: Floats) -> Floats:
    """Returns `(lists, dim)` centres of a sample `(n, dim)`, found by FAISS as it finds those of any such index."""
    dim, count = sample.shape[1], min(LISTS, max(1, len(sample) // SAMPLE_EACH))
    found = faiss.IndexFlatIP(dim)
    index: Any = faiss.IndexIVFRaBitQ(found, dim, count, faiss.METRIC_INNER_PRODUCT)
    index.cp.niter, index.cp.max_points_per_centroid = ROUNDS, SAMPLE_EACH
    index.train(sample)
    centres: Floats = found.reconstruct_n(0, count)
    return centres
