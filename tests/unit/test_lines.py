"""Who goes next, without threads and without time."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.api.lines import LEAST_SLICE, Lines, Pace

MAX_BATCH = 8


@dataclass(slots=True)
class Waiting:
    number: int
    weight: int = 1
    gone: bool = False


def numbers(batch: list[Waiting]) -> list[int]:
    return [one.number for one in batch]


def lines(singles: int = 0, bulk: int = 0) -> Lines[Waiting]:
    made = Lines[Waiting](MAX_BATCH)
    for n in range(bulk):
        made.add(Waiting(100 + n), bulk=True)
    for n in range(singles):
        made.add(Waiting(n), bulk=False)
    return made


def test_single_requests_go_first_and_alone_and_then_a_slice_of_the_bulk() -> None:
    waiting = lines(singles=3, bulk=20)
    assert [numbers(waiting.take()[0]) for _ in range(2)] == [[0, 1, 2], [100 + n for n in range(LEAST_SLICE)]]


def test_without_the_others_each_goes_on() -> None:
    waiting = lines(bulk=2 * LEAST_SLICE)
    assert [len(waiting.take()[0]) for _ in range(3)] == [LEAST_SLICE, LEAST_SLICE, 0]
    waiting = lines(singles=2 * MAX_BATCH + 1)
    assert [len(waiting.take()[0]) for _ in range(4)] == [MAX_BATCH, MAX_BATCH, 1, 0]


def test_those_that_have_gone_cost_nobody_a_turn() -> None:
    waiting = lines(bulk=1)
    waiting.add(Waiting(1, gone=True), bulk=False)
    assert numbers(waiting.take()[0]) == [100]
    waiting.add(Waiting(2, gone=True), bulk=False)
    waiting.add(Waiting(3), bulk=True)
    waiting.drop_gone()
    assert len(waiting) == 1


EVENTS = st.lists(st.one_of(st.none(), st.tuples(st.booleans(), st.integers(1, MAX_BATCH + 2))), max_size=80)


@given(EVENTS)
def test_nobody_is_lost_overtaken_in_their_line_or_passed_over_twice(events: list[tuple[bool, int] | None]) -> None:
    """An event is a newcomer (of the bulk or not, with a weight), or None: the worker takes a batch."""
    waiting, left = Lines[Waiting](MAX_BATCH), {True: list[Waiting](), False: list[Waiting]()}
    passed_over = {True: 0, False: 0}
    for number, event in enumerate([*events, *[None] * len(events)]):
        if event is not None:
            newcomer = Waiting(number, event[1])
            waiting.add(newcomer, bulk=event[0])
            left[event[0]].append(newcomer)
            continue
        batch, bulk = waiting.take()
        assert batch == left[bulk][: len(batch)]
        assert batch or not (left[True] or left[False])
        del left[bulk][: len(batch)]
        assert len(batch) == 1 or sum(one.weight for one in batch) <= MAX_BATCH
        passed_over[bulk], other = 0, not bulk
        passed_over[other] = passed_over[other] + 1 if left[other] and batch else 0
        assert passed_over[other] <= 1
    assert len(waiting) == 0


@pytest.mark.parametrize(
    ("alone_s", "fixed_s", "each_s", "expected"),
    [
        (0.010, 0.000, 0.010, LEAST_SLICE),  # two items take twice as long as one
        (0.010, 0.0095, 0.0001, 32),  # a full batch hardly takes longer than one item
        (1.000, 1.0, 0.010, 32),  # one pass over a large index, whatever the number of questions
    ],
)
def test_slices_grow_where_a_full_batch_hardly_takes_longer(
    alone_s: float, fixed_s: float, each_s: float, expected: int
) -> None:
    pace = Pace(32)
    pace.learn(1, alone_s, bulk=False)
    for _ in range(10):
        pace.learn(pace.slice, fixed_s + each_s * pace.slice, bulk=True)
    assert pace.slice == expected


def test_slices_shrink_again_and_are_never_larger_than_a_batch() -> None:
    pace = Pace(16)
    pace.learn(1, 1.0, bulk=False)
    for _ in range(10):
        pace.learn(pace.slice, 1.0, bulk=True)
    assert pace.slice == 16
    for _ in range(10):
        pace.learn(pace.slice, 5.0, bulk=True)
    assert pace.slice == LEAST_SLICE
    assert Pace(1).slice == 1


def test_nothing_is_learned_from_half_a_slice_or_before_one_item_was_alone() -> None:
    pace = Pace(32)
    pace.learn(LEAST_SLICE, 0.001, bulk=True)
    pace.learn(1, 1.0, bulk=False)
    pace.learn(2, 0.001, bulk=True)
    pace.learn(LEAST_SLICE, 0.001, bulk=False)
    assert pace.slice == LEAST_SLICE
