"""The search index of one catalog: which product each row is of, and which rows answer a question.

A question is about products with a photo and a title, with a photo only, or with a title only (see `app.core.fusion`):
the rows of each kind are kept apart, so that every row is looked at for one question of a query, and none has to be
filtered out.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from app.catalog import byte_codes, faiss_lists
from app.catalog.blocks import Blocks
from app.catalog.rows import Found, Hits, IndexOptions, RowSet, merge
from app.core.fusion import HAS_BOTH, HAS_IMAGE, HAS_TITLE
from app.core.product import Floats

AT_ONCE = 256  # questions at a time: a low bound may answer each with every row


class RowIndex:
    """Exact search, unless the options say otherwise. Not thread-safe: the catalog holds a lock.

    A slot names a row until the next change: it is `4 * position + flags`.
    """

    def __init__(self, dim: int, options: IndexOptions | None = None, image_dim: int = 0) -> None:
        """Makes an empty index.

        Args:
            dim: columns.
            options: how rows are stored and searched.
            image_dim: so many columns, the first, are of photos, the others of titles; 0 where rows have no such halves.
        """
        self._options = options = options or IndexOptions()
        self.dim, self.precision = dim, options.precision
        image, title = slice(image_dim), slice(image_dim, None)
        about: list[tuple[slice, ...]] = [(slice(None),)] * 4
        if 0 < image_dim < dim:
            about[HAS_IMAGE], about[HAS_TITLE], about[HAS_BOTH] = (image,), (title,), (image, title, slice(None))
        self._kinds = {flags: Blocks(dim, options, about[flags]) for flags in range(4)}

    def __len__(self) -> int:
        """Rows."""
        return sum(map(len, self._kinds.values()))

    @property
    def exact(self) -> bool:
        """False if a search may miss rows that it should find."""
        return all(kind.exact for kind in self._kinds.values())

    def prepare(self) -> bool:
        """Makes what searches need beside rows, if it is missing: lists, or codes; to be called after changes.

        Returns:
            Whether something was made, which may take a while.
        """
        made = [kind.prepare() for kind in self._kinds.values()]
        return any(made)

    def kinds(self) -> set[int]:
        """The flags that occur among the rows."""
        return {flags for flags, rows in self._kinds.items() if len(rows)}

    def add(self, rows: RowSet, *, adopt: bool = False) -> None:
        """Adds rows; with `adopt` the memory of their vectors becomes the index's own, to be written to."""
        for flags in np.unique(rows.flags).tolist():
            which = rows.flags == flags
            whole = bool(which.all())
            some = (rows.keys, rows.vectors) if whole else (rows.keys[which], rows.vectors[which])
            self._kinds[flags].add(*some, adopt=adopt)

    def remove(self, keys: Sequence[int]) -> None:
        """Removes every row of those products; unknown keys are ignored."""
        for kind in self._kinds.values():
            kind.remove(kind.positions_of(np.asarray(keys, np.int64)))

    def rows(self, slots: NDArray[np.int64]) -> RowSet:
        """Returns copies of the rows in those slots."""
        flags, positions = slots & 3, slots >> 2
        found = RowSet(np.empty(len(slots), np.int64), flags.astype(np.uint8), np.empty((len(slots), self.dim), np.float32))
        for kind in np.unique(flags).tolist():
            which = flags == kind
            found.keys[which] = self._kinds[kind].keys[positions[which]]
            found.vectors[which] = self._kinds[kind].vectors(positions[which])
        return found

    def slots_of(self, keys: Sequence[int]) -> NDArray[np.int64]:
        """Returns the slots that hold rows of those products."""
        wanted = np.asarray(keys, np.int64)
        return np.concatenate([kind.positions_of(wanted) << 2 | flags for flags, kind in self._kinds.items()])

    def export(self) -> Iterator[RowSet]:
        """Yields all rows, in parts that are valid until the next change."""
        for flags, kind in self._kinds.items():
            for keys, matrix in kind.parts():
                yield RowSet(keys, np.full(len(keys), flags, np.uint8), matrix)

    @property
    def layout(self) -> str | None:
        """What `prepare` makes, and how its bytes are to be read; None if it makes nothing."""
        if self._options.search == "approximate":
            return faiss_lists.LAYOUT
        return byte_codes.LAYOUT if self._options.coded else None

    def export_auxiliary(self) -> Iterator[tuple[int, bytes]]:
        """Yields what `prepare` has made, with the flags of the rows that it is about."""
        for flags, kind in self._kinds.items():
            yield from ((flags, data) for data in kind.export_auxiliary())

    def adopt_auxiliary(self, kept: Sequence[tuple[int, NDArray[np.uint8]]]) -> None:
        """Takes over what an index with the same rows has exported. Raises ValueError if they were others."""
        for flags, kind in self._kinds.items():
            own = [data for of, data in kept if of == flags]
            if own:
                kind.adopt_auxiliary(own)

    def candidates(
        self,
        questions: Floats,
        bounds: Sequence[float],
        allowed: NDArray[np.int64] | None = None,
        nearest: int = 0,
        among: Sequence[Collection[int]] | None = None,
        *,
        if_any: bool = False,
    ) -> list[Found]:
        """Finds, for each question, all rows that may reach its bound, and the nearest in any case.

        Args:
            questions: `(n, dim)` float32.
            bounds: smallest inner product per question, inclusive, less the rounding error of float32.
            allowed: keys of the products that may answer; None for all.
            nearest: so many rows are found even if they are below the bound, where there are that many.
            among: flags of the rows that each question is about; None for all.
            if_any: among rows of a kind none of which reaches the bound, the nearest need not be found.
        """
        found: list[Found] = []
        kinds = self.kinds()
        about = [kinds if among is None else kinds.intersection(among[n]) for n in range(len(questions))]
        for start in range(0, len(questions), AT_ONCE):
            part = np.ascontiguousarray(questions[start : start + AT_ONCE], np.float32)
            limits = np.array(bounds[start : start + AT_ONCE], np.float64)
            parts: list[list[Hits]] = [[] for _ in part]
            for kind in sorted(kinds):
                asked = [n for n in range(len(part)) if kind in about[start + n]]
                if not asked:
                    continue
                hits = self._kinds[kind].search(part[asked], limits[asked], nearest, allowed, if_any=if_any)
                for n, one in zip(asked, hits, strict=True):
                    parts[n].append(Hits(one.slots << 2 | kind, one.scores, one.beyond))
            for of_question, bound in zip(parts, limits.tolist(), strict=True):
                best = merge(of_question, bound, nearest)
                found.append(Found(np.sort(best.slots), best.beyond))
        return found
