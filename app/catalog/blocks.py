"""Rows of one kind in blocks, and the way to an answer: by codes, by all rows, or by those that a filter lets through."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from app.catalog.byte_codes import ByteCodes, Limits, limits_of, make_codes
from app.catalog.faiss_index import FlatBlock, Positions
from app.catalog.faiss_lists import SAMPLE, Lists
from app.catalog.rows import SLACK, Hits, IndexOptions, merge
from app.core.product import Floats

BLOCK = 32_768  # rows; growing a block copies it, so it must not be large
BLAS_FROM = 4  # questions with a filter: copied out and as one matrix product, rows are searched faster than skipped
MOST_LIMITS = 1 << 25  # of rows, for all questions that are asked at the same time: 128 MiB
MOST_LOOKED_UP = 4  # one in so many rows: reading rows here and there is slower than one after the other
CODED_SHARE = 4  # codes of all rows are read if a filter lets one in so many through; of fewer, the rows themselves
COPIED = 2048  # rows at a time, so that the copies stay in the cache
LEAST_DEPTH, LISTS_DEPTH = 64, 5  # rows that lists name: so many for each one wanted, and for so many at least
MISJUDGED = np.float32(0.08)  # four to five times the usual error of an estimated score
IN_VAIN, AGAIN = 8, 32  # questions in a row that codes were not enough for: from then on one in so many asks them
FEW_ROWS = 32_768  # so many that a filter lets through are all read

Bounds = NDArray[np.float64]
Usable = NDArray[np.bool_] | None  # which rows may answer; None for all


class Blocks:
    """Rows by position; a removed row's place is taken by the last one. Slots of `Hits` are positions here."""

    def __init__(self, dim: int, options: IndexOptions | None = None, about: Sequence[slice] = (slice(None),)) -> None:
        """Makes no block yet.

        Args:
            dim: columns.
            about: columns that questions may be about, each with lists of its own in an approximate search. The last ones
                answer all other questions: rows have zeros elsewhere.
            options: how they are stored and searched. Rows in float16 have no codes: they would take half as much again,
                and twice as many rows go through memory in a second already.
        """
        self._dim, self._options, self._about = dim, options or IndexOptions(), about
        self._half = self._options.precision == "float16"
        self.keys = np.zeros(0, np.int64)
        self._blocks: list[FlatBlock] = []
        self._codes: list[ByteCodes] = []  # none, or of each block
        self._lists: list[Lists] = []  # none, or for all columns that questions may be about
        self._asked = self._in_vain = 0

    def __len__(self) -> int:
        """Rows."""
        return len(self.keys)

    @property
    def exact(self) -> bool:
        """False if a search may miss a row."""
        return not self._lists

    def prepare(self) -> bool:
        """Makes what searches need beside rows, if it is missing, or worn; returns whether it did."""
        return self._prepare_codes() or self._prepare_lists()

    def _prepare_codes(self) -> bool:
        missing = self._wants_codes() and not self._codes
        if missing:
            self._codes = make_codes(self._blocks)
        return missing

    def _wants_codes(self) -> bool:
        return self._options.coded and len(self) >= max(1, self._options.codes_from)

    def _prepare_lists(self) -> bool:
        wanted = self._options.search == "approximate" and len(self) >= self._options.lists_from
        made = wanted and (not self._lists or self._lists[0].worn)
        if made:
            some = np.random.default_rng(0).choice(len(self), min(len(self), SAMPLE), replace=False)
            sample = self.vectors(some)
            self._lists = [
                Lists.make(len(self), (matrix for _, matrix in self.parts()), sample, columns) for columns in self._about
            ]
        elif len(self) < self._options.lists_from // 2:
            self._lists = []
        return made

    def export_auxiliary(self) -> Iterator[bytes]:
        """Yields what `prepare` has made, for `adopt_auxiliary`: lists, or else codes."""
        yield from (one.to_bytes() for one in self._lists or self._codes)

    def adopt_auxiliary(self, kept: Sequence[NDArray[np.uint8]]) -> None:
        """Takes over what blocks of the same rows have exported. Raises ValueError if those were others."""
        if self._options.search == "approximate":
            parts = zip(kept, self._about, strict=True)
            self._lists = [Lists.from_bytes(one, columns, len(self)) for one, columns in parts]
        elif self._wants_codes():
            codes: list[ByteCodes] = []
            for block, one in zip(self._blocks, kept, strict=True):
                codes.append(ByteCodes.from_bytes(block, one, codes[0].coding if codes else None))
            self._codes = codes

    def add(self, keys: NDArray[np.int64], vectors: Floats, *, adopt: bool = False) -> None:
        """Adds `(n, dim)` rows at the end.

        Args:
            keys: of their products.
            vectors: the rows.
            adopt: their memory becomes the index's own, to be written to, and rows that begin a block are not copied.
        """
        for lists in self._lists:
            lists.add(np.arange(len(self), len(self) + len(keys)), vectors)
        self.keys = np.concatenate([self.keys, keys])
        done = 0
        while done < len(vectors):
            if not self._blocks or len(self._blocks[-1]) == BLOCK:
                self._blocks.append(FlatBlock(self._dim, half=self._half))
                self._codes += [one.beside(self._blocks[-1]) for one in self._codes[-1:]]
            part = vectors[done : done + BLOCK - len(self._blocks[-1])]
            if adopt and not len(self._blocks[-1]):
                self._blocks[-1].adopt(part)
            else:
                self._blocks[-1].add(part)
            if self._codes:
                self._codes[-1].add(part)
            done += len(part)

    def remove(self, positions: Positions) -> None:
        """Removes rows."""
        for position in sorted(positions.tolist(), reverse=True):  # so the last row is never one that is still to go
            last = len(self.keys) - 1
            for lists in self._lists:
                lists.remove(np.unique([position, last]))
            if position < last:
                self.keys[position] = self.keys[last]
                n, place = divmod(position, BLOCK)
                self._blocks[n].matrix()[place] = self._blocks[-1].matrix()[-1]
                if self._codes:
                    self._codes[n].replace(place)
                for lists in self._lists:
                    lists.add(np.array([position]), self._blocks[n].matrix()[place : place + 1])
            self._pop()

    def _pop(self) -> None:
        self.keys = self.keys[:-1]
        if self._codes:
            self._codes[-1].pop()
        self._blocks[-1].pop()
        if not len(self._blocks[-1]):
            self._blocks.pop()
            del self._codes[len(self._blocks) :]

    def positions_of(self, keys: NDArray[np.int64]) -> Positions:
        """Returns where the rows of some products are."""
        return np.flatnonzero(np.isin(self.keys, keys))

    def vectors(self, positions: Positions) -> Floats:
        """Returns `(n, dim)` float32 copies of rows."""
        places = positions // BLOCK
        if len(positions) and (places == places[0]).all():
            return np.asarray(self._blocks[places[0]].matrix()[positions % BLOCK], np.float32)
        found = np.empty((len(positions), self._dim), np.float32)
        for n in np.unique(places).tolist():
            found[places == n] = self._blocks[n].matrix()[positions[places == n] % BLOCK]
        return found

    def scores(self, question: Floats, positions: Positions) -> Floats:
        """Returns the `(n,)` inner products of a question with some rows."""
        found = np.empty(len(positions), np.float32)
        places = positions // BLOCK
        for n in np.unique(places).tolist():
            found[places == n] = self._blocks[n].scores(question, positions[places == n] % BLOCK)
        return found

    def parts(self) -> Iterator[tuple[NDArray[np.int64], Floats]]:
        """Yields keys and rows, block by block, as they are stored."""
        for n, block in enumerate(self._blocks):
            yield self.keys[n * BLOCK : (n + 1) * BLOCK], block.matrix()

    def search(
        self, questions: Floats, bounds: Bounds, k: int, allowed: NDArray[np.int64] | None = None, *, if_any: bool = False
    ) -> list[Hits]:
        """Finds, for each question, the `k` nearest rows and all others that may reach its bound.

        Args:
            questions: `(n, dim)` float32.
            bounds: `(n,)` smallest inner products, inclusive.
            k: so many rows are found even if they are below the bound, where there are that many.
            allowed: keys of the products that may answer; None for all.
            if_any: that need not be if no row reaches the bound.
        """
        usable = None if allowed is None else np.isin(self.keys, allowed)
        if usable is not None and usable.all():
            usable = None
        count = len(self) if usable is None else int(np.count_nonzero(usable))
        found: list[Hits | None] = [None] * len(questions)
        if self._lists and (usable is None or count > FEW_ROWS):
            found = self._by_lists(questions, bounds, k, usable)
        elif found and self._codes_help(k, count):
            found = self._by_codes(questions, bounds, k, usable, if_any=if_any)
            for hits in found:
                self._in_vain = self._in_vain + 1 if hits is None else 0
        return self._filled(found, questions, bounds, k, usable)

    def _codes_help(self, k: int, count: int) -> bool:
        """Tells whether to ask codes for the `k` nearest of `count` rows; seldom where they have not been enough lately."""
        if MOST_LOOKED_UP * k > count or CODED_SHARE * count < len(self) or not self._codes:
            return False
        self._asked += 1
        return self._in_vain < IN_VAIN or self._asked % AGAIN == 0

    def _filled(self, found: list[Hits | None], questions: Floats, bounds: Bounds, k: int, usable: Usable) -> list[Hits]:
        """Answers from all rows what has no answer yet."""
        left = [n for n, hits in enumerate(found) if hits is None]
        rest = iter(self._search_some(questions[left], bounds[left], k, usable))
        return [next(rest) if hits is None else hits for hits in found]

    def _by_lists(self, questions: Floats, bounds: Bounds, k: int, usable: Usable) -> list[Hits | None]:
        """Finds most of what is wanted; None where it may be more than was looked for."""
        depth = max(k, LEAST_DEPTH) * LISTS_DEPTH
        found: list[Hits | None] = [None] * len(questions)
        left = list(range(len(questions)))
        for lists in self._lists:
            mine = left if lists is self._lists[-1] else [n for n in left if lists.suit(questions[n])]
            left = [n for n in left if n not in mine]
            for n, near in zip(mine, lists.search(questions[mine], depth, usable) if mine else [], strict=True):
                bound = float(bounds[n])
                hits = self._looked_up(questions[n], Hits(near.slots, near.scores + MISJUDGED, near.beyond), bound, k)
                found[n] = None if np.count_nonzero(hits.scores >= bound) > depth // 2 else hits
        return found

    def _search_all(self, questions: Floats, bounds: Bounds, k: int, usable: Usable = None) -> list[Hits]:
        parts: list[list[Hits]] = [[] for _ in questions]
        for n, block in enumerate(self._blocks if len(questions) else []):
            some = None if usable is None else usable[n * BLOCK : (n + 1) * BLOCK]
            for of_question, hits in zip(parts, block.search(questions, bounds, k, some), strict=True):
                of_question.append(Hits(hits.slots + n * BLOCK, hits.scores, hits.beyond))
        return [merge(part, bound, k) for part, bound in zip(parts, bounds.tolist(), strict=True)]

    def _search_some(self, questions: Floats, bounds: Bounds, k: int, usable: Usable) -> list[Hits]:
        """Searches the usable rows only: FAISS skips the others, or they are copied out where that saves more."""
        if usable is None or len(questions) < BLAS_FROM:
            return self._search_all(questions, bounds, k, usable)
        positions = np.flatnonzero(usable)
        parts: list[list[Hits]] = [[] for _ in questions]
        for start in range(0, len(positions), COPIED):
            places = positions[start : start + COPIED]
            copied = FlatBlock(self._dim)
            copied.add(self.vectors(places))
            for of_question, hits in zip(parts, copied.search(questions, bounds, k), strict=True):
                of_question.append(Hits(places[hits.slots], hits.scores, hits.beyond))
        return [merge(part, bound, k) for part, bound in zip(parts, bounds.tolist(), strict=True)]

    def _by_codes(self, questions: Floats, bounds: Bounds, k: int, usable: Usable, *, if_any: bool) -> list[Hits | None]:
        """Finds what is wanted by looking up the rows whose codes say that they may be; None if those are too many."""
        found: list[Hits | None] = []
        at_once = max(1, MOST_LIMITS // len(self))
        for start in range(0, len(questions), at_once):
            some = questions[start : start + at_once]
            for question, bound, limits in zip(some, bounds[start:].tolist(), limits_of(self._codes, some), strict=False):
                none = if_any and not any(one.reach(bound - SLACK) for one in limits)
                found.append(self._within(limits, question, bound, 0 if none else k, usable))
        return found

    def _within(self, limits: Sequence[Limits], question: Floats, bound: float, k: int, usable: Usable) -> Hits | None:
        """Scores the rows that may be wanted, given what the rows of each block can score at most."""
        count = len(self) if usable is None else int(np.count_nonzero(usable))
        floor = bound - SLACK
        if k:
            floor = min(floor, float(self.scores(question, self._likeliest(limits, k, usable)).min()) - SLACK)
        wanted = np.concatenate([one.reaching(floor) + n * BLOCK for n, one in enumerate(limits)])
        if usable is not None:
            wanted = wanted[usable[wanted]]
        if len(wanted) * MOST_LOOKED_UP > count:
            return None
        beyond = floor if len(wanted) < count else -np.inf
        return merge([Hits(wanted, self.scores(question, wanted), beyond)], bound, k)

    def _likeliest(self, limits: Sequence[Limits], k: int, usable: Usable) -> Positions:
        """Returns the positions of the `k` rows with the highest limits, or of all if there are no more."""
        slots, highest = [], []
        for n, one in enumerate(limits):
            some = None if usable is None else usable[n * BLOCK : (n + 1) * BLOCK]
            of_block, their = one.highest(k, some)
            slots.append(of_block + n * BLOCK)
            highest.append(their)
        positions = np.concatenate(slots)
        return positions[np.argpartition(np.concatenate(highest), -k)[-k:]] if len(positions) > k else positions

    def _looked_up(self, question: Floats, most: Hits, bound: float, k: int) -> Hits:
        """Scores the rows that may be wanted, given the most that each can score."""
        order = np.argsort(-most.scores)
        slots, limits = most.slots[order], most.scores[order]
        scores = self.scores(question, slots[:k])
        floor = min([bound, *scores.tolist()]) - SLACK
        wanted = max(k, int(np.searchsorted(-limits, -floor, side="right")))
        scores = np.concatenate([scores, self.scores(question, slots[k:wanted])])
        beyond = max([most.beyond, *limits[wanted : wanted + 1].tolist()])
        return merge([Hits(slots[:wanted], scores, beyond)], bound, k)
