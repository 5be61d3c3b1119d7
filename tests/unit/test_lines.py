"""Who goes next, without threads and without time."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from app.api.lines import DOUBLING_S, HOLD_S, LEAST_SLICE, Lines

MAX_BATCH = 8


@dataclass(slots=True)
class Waiting:
    number: int
    weight: int = 1
    gone: bool = False


def numbers(batch: list[Waiting]) -> list[int]:
    return [one.number for one in batch]


def lines(singles: int = 0, bulk: int = 0) -> Lines[Waiting]:
    """Everybody comes at second 0."""
    made = Lines[Waiting](MAX_BATCH)
    for n in range(bulk):
        made.add(Waiting(100 + n), 0, bulk=True)
    for n in range(singles):
        made.add(Waiting(n), 0, bulk=False)
    return made


def taken(waiting: Lines[Waiting], times: int) -> list[list[int]]:
    return [numbers(waiting.take(0)) for _ in range(times)]


def test_single_requests_go_first_and_alone_and_then_a_slice_of_the_bulk() -> None:
    assert taken(lines(singles=3, bulk=20), 2) == [[0, 1, 2], [100 + n for n in range(LEAST_SLICE)]]


def test_without_the_others_each_goes_on() -> None:
    assert [len(batch) for batch in taken(lines(bulk=2 * MAX_BATCH), 3)] == [MAX_BATCH, MAX_BATCH, 0]
    assert [len(batch) for batch in taken(lines(singles=2 * MAX_BATCH + 1), 4)] == [MAX_BATCH, MAX_BATCH, 1, 0]


def test_those_that_have_gone_cost_nobody_a_turn() -> None:
    waiting = lines(bulk=1)
    waiting.add(Waiting(1, gone=True), 0, bulk=False)
    assert taken(waiting, 1) == [[100]]
    waiting.add(Waiting(2, gone=True), 0, bulk=False)
    waiting.add(Waiting(3), 0, bulk=True)
    waiting.drop_gone()
    assert len(waiting) == 1


def test_the_bulk_is_held_back_while_somebody_is_served_elsewhere_but_not_for_long() -> None:
    waiting = lines(bulk=50)
    waiting.add(Waiting(1), 1.0, bulk=False)
    assert numbers(waiting.take(1.0, held=True)) == [1]
    assert numbers(waiting.take(1.0, held=True)) == [100, 101]  # it is the bulk's turn, and it has not had one yet
    assert waiting.take(1.0 + 0.9 * HOLD_S, held=True) == []
    waiting.add(Waiting(2), 1.0, bulk=False)
    assert numbers(waiting.take(1.0, held=True)) == [2]
    assert numbers(waiting.take(1.0 + 1.1 * HOLD_S, held=True)) == [102, 103]
    assert waiting.take(1.0 + 1.2 * HOLD_S, held=True) == []
    assert numbers(waiting.take(1.0 + 1.2 * HOLD_S)) == [104, 105]


EVENTS = st.lists(st.one_of(st.none(), st.tuples(st.booleans(), st.integers(1, MAX_BATCH + 2))), max_size=80)


@given(EVENTS)
def test_nobody_is_lost_overtaken_in_their_line_or_passed_over_twice(events: list[tuple[bool, int] | None]) -> None:
    """An event is a newcomer (of the bulk or not, with a weight), or None: the worker takes a batch."""
    waiting, left = Lines[Waiting](MAX_BATCH), {True: list[Waiting](), False: list[Waiting]()}
    passed_over = {True: 0, False: 0}
    for number, event in enumerate([*events, *[None] * len(events)]):
        if event is not None:
            newcomer = Waiting(number, event[1])
            waiting.add(newcomer, number / 10, bulk=event[0])
            left[event[0]].append(newcomer)
            continue
        batch = waiting.take(number / 10)
        assert batch or not (left[True] or left[False])
        bulk = bool(batch) and batch[0] in left[True]
        assert batch == left[bulk][: len(batch)]
        del left[bulk][: len(batch)]
        assert len(batch) == 1 or sum(one.weight for one in batch) <= MAX_BATCH
        passed_over[bulk], other = 0, not bulk
        passed_over[other] = passed_over[other] + 1 if left[other] and batch else 0
        assert passed_over[other] <= 1
    assert len(waiting) == 0


def test_slices_grow_while_no_single_request_comes_and_shrink_when_one_does() -> None:
    waiting = lines(bulk=5)
    assert waiting.slice(0) == MAX_BATCH  # nobody has asked yet
    waiting.add(Waiting(1), 10.0, bulk=False)
    sizes = [waiting.slice(10.0 + DOUBLING_S * n) for n in (0.0, 0.9, 1.0, 1.5, 2.0, 3.0, 1e6)]
    assert sizes == [LEAST_SLICE, LEAST_SLICE, 2 * LEAST_SLICE, 2 * LEAST_SLICE, MAX_BATCH, MAX_BATCH, MAX_BATCH]
    waiting.add(Waiting(2), 2e6, bulk=True)
    assert waiting.slice(2e6) == MAX_BATCH
    waiting.add(Waiting(3), 2e6, bulk=False)
    assert waiting.slice(2e6) == LEAST_SLICE


def test_a_slice_is_never_larger_than_a_batch() -> None:
    waiting = Lines[Waiting](1)
    waiting.add(Waiting(1), 0, bulk=False)
    assert waiting.slice(0) == 1
