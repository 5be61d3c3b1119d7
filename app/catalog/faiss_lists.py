"""Approximate search: rows in lists around centres, one bit per dimension, and only the nearest lists are read.

FAISS's inverted lists with RaBitQ codes (Gao and Long, 2024: "RaBitQ: Quantizing High-Dimensional Vectors with a
Theoretical Error Bound"). What they find is looked up and scored from the stored vectors by `app.catalog.blocks`.
"""

from __future__ import annotations

from collections.abc import Iterator
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
LAYOUT = f"FAISS {faiss.__version__}, 1"  # of lists as bytes: other bytes may mean something else, and are not parsed
_COUNTS = np.dtype("<i8")


class Lists:
    """Lists of rows by position, of rows that are near in some columns. Not thread-safe: the catalog holds a lock."""

    def __init__(self, index: Any, columns: slice, made_with: int, added: int = 0) -> None:
        """Takes what `make` or `from_bytes` has made.

        Args:
            index: FAISS's.
            columns: see `make`.
            made_with: so many rows there were when the centres were found.
            added: so many rows have come since.
        """
        self._index, self._columns = index, columns
        self._made_with, self._added = made_with, added

    @classmethod
    def make(cls, count: int, parts: Iterator[Floats], sample: Floats, columns: slice = slice(None)) -> Lists:
        """Finds centres and fills the lists.

        Args:
            count: rows.
            parts: all rows, in order.
            sample: some of them, `(n, dim)`, that stand for all.
            columns: what questions are about; they have zeros elsewhere.
        """
        sample = sample[:, columns]
        dim = sample.shape[1]
        centres = faiss.IndexFlatIP(dim)
        index: Any = faiss.IndexIVFRaBitQ(
            centres, dim, min(LISTS, max(1, len(sample) // SAMPLE_EACH)), faiss.METRIC_INNER_PRODUCT
        )
        index.referenced_objects = [centres]  # FAISS keeps what other indexes are made of alive like that, but not here
        index.cp.niter, index.cp.max_points_per_centroid = ROUNDS, SAMPLE_EACH
        index.train(spread(sample))
        by_number = faiss.DirectMap.Hashtable  # type: ignore[attr-defined]
        index.set_direct_map_type(by_number)  # so that a row is removed without a look at the others
        lists = cls(index, columns, count)
        start = 0
        for part in parts:
            lists.add(np.arange(start, start + len(part)), part)
            start += len(part)
        lists._added = 0
        return lists

    @classmethod
    def from_bytes(cls, data: bytes, columns: slice, rows: int) -> Lists:
        """Returns the lists that `to_bytes` has written, in this `LAYOUT`.

        Args:
            data: proven to be what was written: FAISS parses whatever it is given.
            columns: see `make`.
            rows: that are in the lists.

        Raises:
            ValueError: they are lists of other rows.
        """
        made_with, added = np.frombuffer(data, _COUNTS, 2).tolist()
        index = faiss.deserialize_index(np.frombuffer(data, np.uint8, offset=2 * _COUNTS.itemsize))
        if index.ntotal != rows:
            raise ValueError(f"lists of {index.ntotal} rows, not of {rows}")
        return cls(index, columns, made_with, added)

    def to_bytes(self) -> bytes:
        """Returns the lists, so that they need not be made again; about an eighth of a byte for each number of a row."""
        return np.array([self._made_with, self._added], _COUNTS).tobytes() + bytes(faiss.serialize_index(self._index).data)

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
