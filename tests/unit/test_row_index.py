"""RowIndex.candidates against NumPy: the nearest, all at or above the bound, and what may lie beyond; with codes or not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from app.catalog import blocks, byte_codes
from app.catalog.byte_codes import ByteCodes, limits_of, make_codes
from app.catalog.faiss_index import FlatBlock
from app.catalog.row_index import RowIndex
from app.catalog.rows import SLACK, Found, IndexOptions, Precision, RowSet
from app.core.product import Floats

DIM = 4
WIDE = 104  # codes leave 8 of these columns out
ROUNDING = 1e-6  # of float32 inner products of unit vectors
OPTIONS = [IndexOptions(), IndexOptions(codes_from=0), IndexOptions(codes_from=20), IndexOptions("float16")]
Kept = list[tuple[int, NDArray[np.uint8]]]
LISTS = IndexOptions(search="approximate", lists_from=1)  # so few rows are all read and looked up, and nothing is missed


@pytest.fixture(autouse=True, scope="module")
def small() -> Iterator[None]:
    """Blocks and depths so small that a few rows fill several of them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "BLOCK", 16)
        patch.setattr(byte_codes, "TOGETHER", 3)
        patch.setattr(blocks, "MOST_LIMITS", 300)
        patch.setattr(blocks, "LEAST_DEPTH", 1)
        patch.setattr(blocks, "MOST_LOOKED_UP", 1)
        patch.setattr(blocks, "LISTS_DEPTH", 1000)
        patch.setattr(blocks, "MISJUDGED", np.float32(10))
        patch.setattr(blocks, "FEW_ROWS", 5)
        yield


@dataclass
class Case:
    """An index and its rows, each with a key of its own."""

    index: RowIndex
    keys: list[int] = field(default_factory=list)
    flags: list[int] = field(default_factory=list)
    vectors: list[Floats] = field(default_factory=list)

    def add(self, keys: list[int], flags: NDArray[np.uint8], vectors: Floats, *, adopt: bool = False) -> None:
        mine = vectors.astype(self.index.precision)
        self.index.add(RowSet(np.array(keys, np.int64), flags, mine), adopt=adopt)
        self.index.prepare()
        self.keys += keys
        self.flags += flags.tolist()
        self.vectors += list(vectors.astype(self.index.precision).astype(np.float32))  # what an exact search is exact about

    def remove(self, keys: set[int]) -> None:
        self.index.remove(sorted(keys))
        self.index.prepare()
        kept = [n for n, key in enumerate(self.keys) if key not in keys]
        self.keys, self.flags = [self.keys[n] for n in kept], [self.flags[n] for n in kept]
        self.vectors = [self.vectors[n] for n in kept]

    def check(
        self, question: Floats, bound: float, k: int, found: Found, allowed: NDArray[np.int64] | None,
        among: set[int] | None, *, if_any: bool = False,
    ) -> None:  # fmt: skip
        """Asserts that an answer holds all that it must, little else, and that nothing else is better than it says."""
        rows = self.index.rows(found.slots)
        assert found.slots.tolist() == sorted(set(found.slots.tolist()))
        usable = {
            key: float(vector.astype(np.float64) @ question.astype(np.float64))
            for key, flags, vector in zip(self.keys, self.flags, self.vectors, strict=True)
            if (allowed is None or key in allowed.tolist()) and (among is None or flags in among)
        }
        got = set(rows.keys.tolist())
        assert got <= set(usable)
        best = sorted(usable.values(), reverse=True)
        last = best[min(k, len(best)) - 1] if best and k else np.inf
        kinds = {flags for key, flags in zip(self.keys, self.flags, strict=True) if key in usable}
        nearest = not if_any or (len(kinds) == 1 and best[0] >= bound)
        assert len(got) >= min(k, len(usable)) or not nearest
        assert {key for key, score in usable.items() if score >= bound or (score > last + ROUNDING and nearest)} <= got
        assert all(usable[key] >= min(bound - 2 * SLACK, last - ROUNDING) for key in got) or not nearest  # nothing else
        rest = [score for key, score in usable.items() if key not in got]
        assert max(rest, default=-np.inf) <= found.beyond
        assert rest or found.beyond == -np.inf


def unit(rows: NDArray[np.float64]) -> Floats:
    scaled: Floats = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    return scaled


@st.composite
def cases(draw: st.DrawFn, options: IndexOptions, dim: int) -> Case:
    """Some rows equal, some removed again, more added; some with a dimension that is much larger than all before."""
    random = np.random.default_rng(draw(st.integers(0, 10_000)))
    case = Case(RowIndex(dim, options))
    for _ in range(draw(st.integers(1, 4))):
        count = draw(st.integers(0, 40))
        pool = random.normal(size=(draw(st.integers(1, 40)), dim))  # a small pool makes ties
        pool[:: draw(st.sampled_from([1, 7, 100])), draw(st.integers(0, dim - 1))] *= draw(st.sampled_from([1, 100]))
        flags = random.integers(1, 4, count) if draw(st.booleans()) else np.full(count, 3)
        start = max(case.keys, default=-1) + 1
        keys = [start + n for n in range(count)]
        rows = unit(pool)[random.integers(len(pool), size=count)]
        case.add(keys, flags.astype(np.uint8), rows, adopt=draw(st.booleans()))
        case.remove(draw(st.sets(st.sampled_from(case.keys), max_size=20)) if case.keys else set())
    return case


@settings(deadline=None, max_examples=200)
@given(data=st.data(), options=st.sampled_from([*OPTIONS, LISTS]), dim=st.sampled_from([DIM, WIDE]))
def test_the_nearest_and_all_at_the_bound_are_found(data: st.DataObject, options: IndexOptions, dim: int) -> None:
    case = data.draw(cases(options, dim))
    random = np.random.default_rng(data.draw(st.integers(0, 10_000)))
    questions = unit(random.normal(size=(data.draw(st.integers(1, 12)), dim)))
    if data.draw(st.booleans()) and case.keys:
        questions[0] = case.vectors[0]
    allowed = None
    if data.draw(st.booleans()) and case.keys:
        allowed = np.array(data.draw(st.lists(st.sampled_from([*case.keys, -5]), unique=True)), np.int64)
    kinds, asked = st.sets(st.integers(1, 3)), len(questions)
    among = data.draw(st.none() | st.lists(kinds, min_size=asked, max_size=asked))
    k = data.draw(st.integers(0, 8) | st.sampled_from([len(case.keys), len(case.keys) + 5]))
    exact = [float(vector.astype(np.float64) @ questions[0].astype(np.float64)) for vector in case.vectors]
    bounds = [data.draw(st.sampled_from([-1.0, 0.0, 0.7, 1.0, *exact]) | st.floats(-1, 1)) for _ in questions]
    if_any = data.draw(st.booleans())
    found = case.index.candidates(questions, bounds, allowed, k, among, if_any=if_any)
    for n, (question, bound, one) in enumerate(zip(questions, bounds, found, strict=True)):
        case.check(question, bound, k, one, allowed, None if among is None else among[n], if_any=if_any)


@pytest.mark.parametrize("dim", [1, 3, 4, 8, 16, 20])
def test_float16_is_rounded_alike_everywhere(dim: int) -> None:
    case = Case(RowIndex(dim, IndexOptions("float16")))
    ties = (np.arange(2 * dim).reshape(2, dim) % 7 + 1 + 2.0**-11).astype(np.float32)  # between two numbers of float16
    case.add([5, 6], np.array([3, 3], np.uint8), ties)
    np.testing.assert_array_equal(case.index.rows(case.index.slots_of([5, 6])).vectors, case.vectors)


@settings(deadline=None)
@given(data=st.data())
def test_rows_are_what_was_added(data: st.DataObject) -> None:
    case = data.draw(cases(data.draw(st.sampled_from(OPTIONS)), DIM))
    assert len(case.index) == len(case.keys)
    assert case.index.kinds() == set(case.flags)
    for key, flags, vector in zip(case.keys, case.flags, case.vectors, strict=True):
        rows = case.index.rows(case.index.slots_of([key]))
        assert (rows.keys.tolist(), rows.flags.tolist()) == ([key], [flags])
        np.testing.assert_array_equal(rows.vectors[0], vector)
    exported = list(case.index.export())
    assert sorted(key for part in exported for key in part.keys.tolist()) == sorted(case.keys)
    copy = Case(RowIndex(DIM, IndexOptions(case.index.precision)))
    for part in exported:
        copy.index.add(part)
    np.testing.assert_array_equal(
        copy.index.rows(copy.index.slots_of(case.keys)).vectors, case.index.rows(case.index.slots_of(case.keys)).vectors
    )


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_adopted_rows_stay_where_they_are(precision: Precision) -> None:
    random = np.random.default_rng(6)
    given = unit(random.normal(size=(40, DIM))).astype(precision)
    rows, more = given.copy(), unit(random.normal(size=(2, DIM))).astype(precision)
    index = RowIndex(DIM, IndexOptions(precision))
    flags = np.full(40, 3, np.uint8)
    index.add(RowSet(np.arange(40), flags, rows), adopt=True)
    assert all(np.shares_memory(part.vectors, rows) for part in index.export())
    index.remove([3])  # the last one takes its place, in the same memory
    assert all(np.shares_memory(part.vectors, rows) for part in index.export())
    np.testing.assert_array_equal(rows[3], given[39])
    index.add(RowSet(np.array([100, 101]), flags[:2], more))  # the last block has to grow
    assert [np.shares_memory(part.vectors, rows) for part in index.export()] == [True, True, False]
    wanted = {**{n: given[n] for n in range(40) if n != 3}, 100: more[0], 101: more[1]}
    found = index.rows(index.slots_of(list(wanted)))
    assert sorted(found.keys.tolist()) == sorted(wanted)
    np.testing.assert_array_equal(found.vectors, [wanted[key] for key in found.keys.tolist()])


def test_codes_spare_the_rows_that_cannot_be_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(3)
    case = Case(RowIndex(WIDE, IndexOptions(codes_from=100)))
    case.add(list(range(600)), np.full(600, 3, np.uint8), unit(random.normal(size=(600, WIDE))))
    question = unit((case.vectors[7] + 0.05 * random.normal(size=WIDE))[None].astype(np.float64))
    read: list[int] = []
    one = blocks.Blocks.scores

    def counted(self: blocks.Blocks, question: Floats, places: NDArray[np.int64]) -> Floats:
        read.append(len(places))
        return one(self, question, places)

    monkeypatch.setattr(blocks.Blocks, "scores", counted)
    monkeypatch.setattr(FlatBlock, "search", lambda *_: pytest.fail("all rows were searched"))
    case.index.candidates(question, [1.1], nearest=5, if_any=True)
    assert sum(read) == 0  # no row can reach the bound, and nothing else is wanted
    for bound, k in ((0.9, 0), (0.9, 3), (1.1, 5), (0.5, 1)):
        (found,) = case.index.candidates(question, [bound], nearest=k)
        assert sum(read) < 200
        read.clear()
        case.check(question[0], bound, k, found, None, None)


def test_codes_that_are_taken_over_answer_as_before_and_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(6)
    case = Case(RowIndex(WIDE, IndexOptions(codes_from=60)))
    case.add(list(range(200)), random.choice(np.array([1, 3], np.uint8), 200), unit(random.normal(size=(200, WIDE))))
    kept = [(flags, np.frombuffer(bytearray(data), np.uint8)) for flags, data in case.index.export_auxiliary()]
    parts = [-(-sum(of == flags for of in case.flags) // blocks.BLOCK) for flags in (1, 3)]
    assert [of for of, _ in kept] == [1] * parts[0] + [3] * parts[1]
    again = RowIndex(WIDE, IndexOptions(codes_from=60))
    for part in case.index.export():
        again.add(part)
    with monkeypatch.context() as patch:
        patch.setattr(ByteCodes, "_make", lambda _: pytest.fail("codes were made anew"))
        again.adopt_auxiliary(kept)
        assert not again.prepare()
    case.index = again
    for step in range(6):
        for question in unit(random.normal(size=(10, WIDE))):
            (found,) = again.candidates(question[None], [0.2], nearest=5)
            case.check(question, 0.2, 5, found, None, None)
        case.remove(set(random.choice(case.keys, 9, replace=False).tolist()))
        case.add([1000 * (step + 1) + n for n in range(12)], np.full(12, 3, np.uint8), unit(random.normal(size=(12, WIDE))))


def of_other_columns(kept: Kept) -> Kept:
    (_, first), (flags, second) = kept
    size = 8 * WIDE  # of the numbers of the columns
    return [(flags, first), (flags, np.concatenate([np.roll(second[:size], 8), second[size:]]))]


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda kept: [(flags, data[:-1]) for flags, data in kept], "not of"),
        (lambda kept: kept[:-1], "shorter"),
        (of_other_columns, "other columns"),
    ],
)
def test_codes_of_other_rows_are_refused(spoil: Callable[[Kept], Kept], why: str) -> None:
    random = np.random.default_rng(6)
    index = RowIndex(WIDE, IndexOptions(codes_from=20))
    index.add(RowSet(np.arange(32), np.full(32, 3, np.uint8), unit(random.normal(size=(32, WIDE)))))
    index.prepare()
    kept = [(flags, np.frombuffer(bytearray(data), np.uint8)) for flags, data in index.export_auxiliary()]
    index.adopt_auxiliary(kept)
    with pytest.raises(ValueError, match=why):
        index.adopt_auxiliary(spoil(kept))


def test_a_new_block_has_codes_from_its_first_row_on(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(8)
    case = Case(RowIndex(WIDE, IndexOptions(codes_from=20)))
    case.add(list(range(24)), np.full(24, 3, np.uint8), unit(random.normal(size=(24, WIDE))))
    monkeypatch.setattr(blocks, "make_codes", lambda _: pytest.fail("the codes of all blocks were made anew"))
    monkeypatch.setattr(FlatBlock, "search", lambda *_: pytest.fail("all rows were searched"))
    for first in range(24, 90, 6):
        case.add([first + n for n in range(6)], np.full(6, 3, np.uint8), unit(random.normal(size=(6, WIDE))))
        question = case.vectors[-1]
        (found,) = case.index.candidates(question[None], [0.9], nearest=3)
        case.check(question, 0.9, 3, found, None, None)


def test_codes_that_are_never_enough_are_asked_seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(5)
    case = Case(RowIndex(WIDE, IndexOptions(codes_from=100)))
    case.add(list(range(160)), np.full(160, 3, np.uint8), unit(random.normal(size=(160, WIDE))))
    questions = unit(random.normal(size=(80, WIDE)))
    asked: list[Floats] = []

    def not_enough(_: blocks.Blocks, questions: Floats, *__: object, **___: object) -> list[None]:
        asked.append(questions)
        return [None] * len(questions)

    monkeypatch.setattr(blocks.Blocks, "_by_codes", not_enough)
    for question in questions:
        (found,) = case.index.candidates(question[None], [0.1], nearest=3)
        case.check(question, 0.1, 3, found, None, None)
    assert blocks.IN_VAIN <= len(asked) <= blocks.IN_VAIN + len(questions) // blocks.AGAIN + 1


def test_codes_never_promise_less_than_a_row_scores() -> None:
    random = np.random.default_rng(4)
    vectors = unit(random.normal(size=(60, WIDE)))
    vectors[40:50] *= 0.01  # small ones: the largest error is that of others
    vectors[50:] = vectors[:10] * 3  # too large for the step that the others got
    block = FlatBlock(WIDE)
    block.add(vectors[:10])
    (codes,) = make_codes([block])
    for start in range(0, 60, 10):
        if start:
            block.add(vectors[start : start + 10])
            codes.add(vectors[start : start + 10])
        questions = unit(random.normal(size=(200, WIDE)))
        for question, (limits,) in zip(questions, limits_of([codes], questions), strict=True):
            most = limits.products * limits.step + limits.error
            assert len(most) == start + 10
            excess = most - (vectors[: start + 10].astype(np.float64) @ question.astype(np.float64))
            assert (excess > 0).all()
            assert excess.max() < 0.8


@pytest.mark.parametrize("rows", [1, 63, 64, 257])
@pytest.mark.parametrize("width", [16, 96, 1392])
def test_products_of_codes_are_exact(rows: int, width: int) -> None:
    random = np.random.default_rng(rows + width)
    block = FlatBlock(width)
    block.add(unit(random.normal(size=(rows, width))))
    (codes,) = make_codes([block])
    inside = codes._codes[:rows].astype(np.int64)
    for questions in (1, 2, 3, 4, 17):
        whole = random.integers(-127, 128, (questions, inside.shape[1])).astype(np.int8)
        whole[-1] = 127  # the largest sums
        assert np.array_equal(codes.products(whole), whole.astype(np.int64) @ inside.T)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_rows_of_one_product_and_what_is_removed(options: IndexOptions) -> None:
    random = np.random.default_rng(5)
    vectors = unit(random.normal(size=(400, DIM))).astype(np.float16).astype(np.float32)
    keys = np.arange(400, dtype=np.int64) // 2
    index = RowIndex(DIM, options)
    index.add(RowSet(keys, np.full(400, 3, np.uint8), vectors))
    index.remove(range(0, 200, 3))
    left = np.flatnonzero(keys % 3 != 0)
    assert len(index) == len(left)
    assert len(index.slots_of([1, 3, 4])) == 4
    for bound in (-1.0, 0.2, 0.9):
        for k in (0, 7, 500):
            found = index.candidates(vectors[:20], [bound] * 20, nearest=k)
            for question, one in zip(vectors[:20], found, strict=True):
                scores = np.sort(vectors[left].astype(np.float64) @ question.astype(np.float64))[::-1]
                wanted = max(min(k, len(left)), int((scores >= bound).sum()))
                assert wanted <= len(one.slots) <= wanted + int((abs(scores - bound) < 2 * SLACK).sum())


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_equal_scores_at_the_bound_are_all_found_beyond_the_nearest(options: IndexOptions) -> None:
    vectors = np.tile(np.array([[0.625, 0.78, 0, 0]], np.float32), (30, 1))
    index = RowIndex(DIM, options)
    index.add(RowSet(np.arange(30, dtype=np.int64), np.full(30, 3, np.uint8), vectors))
    question = np.array([[1, 0, 0, 0]], np.float32)
    assert len(index.candidates(question, [0.625], nearest=3)[0].slots) == 30
    assert len(index.candidates(question, [0.7], nearest=3)[0].slots) >= 3


def test_an_empty_index_finds_nothing() -> None:
    index = RowIndex(DIM)
    assert [one.slots.tolist() for one in index.candidates(np.ones((2, DIM), np.float32), [0.0, 0.0], nearest=5)] == [[], []]
    index.add(RowSet(np.zeros(1, np.int64), np.full(1, 3, np.uint8), np.ones((1, DIM), np.float32)))
    index.remove([0])
    assert len(index) == 0
    assert [one.slots.tolist() for one in index.candidates(np.ones((1, DIM), np.float32), [0.0], nearest=5)] == [[]]
