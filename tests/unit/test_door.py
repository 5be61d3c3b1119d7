"""How many are let in, with a clock that the test turns."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.api.door import BURST, BURST_LASTS, FEW, LEAST, MOST_RETRY_S, WINDOW_S, Door, Places
from app.errors import AppError, Overloaded, ShuttingDown
from tests.fakes import Clock

ALONE_S = 0.005
SLOWDOWN = 20.0


def measured(clock: Clock, each_s: float = ALONE_S) -> Places:
    """Places that have seen many requests, one after the other."""
    places = Places(SLOWDOWN, 0, clock)
    for _ in range(int(5.2 * WINDOW_S / each_s)):
        since = places.take()
        clock.now += each_s
        places.leave(since, served=True)
    return places


def fill(places: Places) -> list[float]:
    """Takes every place there is."""
    taken = []
    while True:
        try:
            taken.append(places.take())
        except Overloaded:
            return taken


def crowd(places: Places, clock: Clock) -> list[float]:
    """Takes every place, and goes on asking until it is no burst any more; then those above the limit are given back."""
    taken = fill(places)
    for _ in range(20):
        clock.now += places.good_s / 5
        with pytest.raises(Overloaded):
            places.check()
    while places.taken > places.limit:
        places.leave(taken.pop(), served=False)
    return taken


def test_who_comes_alone_is_let_in_and_sets_the_measure() -> None:
    places = measured(Clock())
    assert places.taken == 0
    assert places.good_s == pytest.approx(SLOWDOWN * ALONE_S)
    assert places.limit == max(LEAST, SLOWDOWN)  # two hundred a second, a tenth of a second


def test_before_anything_is_known_a_few_are_let_in() -> None:
    places = Places(SLOWDOWN, 0, Clock())
    assert places.limit == LEAST
    assert len(fill(places)) == LEAST


def test_a_fixed_number_is_no_more_and_no_less() -> None:
    places = Places(SLOWDOWN, 3, Clock())
    assert len(fill(places)) == 3
    places.leave(0, served=True)
    assert len(fill(places)) == 1


def test_a_burst_is_let_in_and_those_who_keep_coming_are_not() -> None:
    clock = Clock()
    places = measured(clock)
    limit = places.limit
    assert len(fill(places)) == BURST * limit
    places.leave(clock.now, served=False)
    for _ in range(BURST_LASTS):
        clock.now += places.good_s * 0.9
        assert len(fill(places)) == 1
        places.leave(clock.now, served=False)
    clock.now += places.good_s * 0.1 * BURST_LASTS
    places.leave(clock.now, served=False)
    assert fill(places) == []
    while places.taken >= places.limit:
        places.leave(clock.now, served=False)
    assert len(fill(places)) == 1  # up to the limit, as ever
    while places.taken:
        places.leave(clock.now, served=False)
    clock.now += places.good_s * 1.1
    assert len(fill(places)) > 2 * places.limit


@pytest.mark.parametrize(("together", "expected"), [(1, 20), (10, 200)])
def test_as_many_are_let_in_as_are_answered_in_good_time(together: int, expected: int) -> None:
    """A service that does ten in the time of one has places for ten times as many."""
    clock = Clock()
    places = measured(clock)
    taken = crowd(places, clock)
    for _ in range(40):
        clock.now += WINDOW_S
        for since in taken:
            places.leave(since, served=True)
        served = len(taken)
        rest = round(WINDOW_S / ALONE_S * together) - served  # how many more are answered in this while
        for _ in range(max(0, rest)):
            places._served += 1
        taken = []
        while places.taken < places.limit:
            taken.append(places.take())
    assert places.limit == expected


def test_what_fails_at_once_makes_no_places() -> None:
    clock = Clock()
    places = measured(clock)
    limit = places.limit
    for _ in range(10_000):
        since = places.take()
        clock.now += 0.0001
        places.leave(since, served=False)
    assert places.limit <= limit
    assert places.good_s == pytest.approx(SLOWDOWN * ALONE_S)


def test_whoever_had_company_does_not_count_as_alone() -> None:
    clock = Clock()
    places = measured(clock)
    for _ in range(100):
        first, second = places.take(), places.take()
        clock.now += 1
        places.leave(first, served=True)
        clock.now += 1
        places.leave(second, served=True)
    assert places.good_s == pytest.approx(SLOWDOWN * ALONE_S)


@given(st.integers(0, 2000))
def test_the_more_are_refused_the_later_they_are_to_come_back(refused: int) -> None:
    clock = Clock()
    places = Places(SLOWDOWN, 1, clock)
    since = places.take()
    for _ in range(refused):
        with pytest.raises(Overloaded):
            places.check()
    clock.now += 1
    places.leave(since, served=True)
    places.take()
    with pytest.raises(Overloaded) as told:
        places.check()
    assert told.value.retry_after_s == min(MOST_RETRY_S, 1 + refused)


class Caller:
    def __init__(self) -> None:
        self.reason: AppError | None = None

    def end(self, reason: AppError) -> None:
        self.reason = reason


def test_a_closed_door_lets_nobody_in_and_ends_those_who_are_inside() -> None:
    door, caller = Door(Places(SLOWDOWN), 1, 10), Caller()
    door.enter(caller)
    door.close()
    with pytest.raises(ShuttingDown):
        door.enter(Caller())
    assert door.inside == 1
    door.cut()
    assert isinstance(caller.reason, ShuttingDown)
    door.leave(caller)
    assert door.inside == 0


def test_batches_and_bodies_are_bounded() -> None:
    door = Door(Places(SLOWDOWN), 2, 10)
    door.take_batch()
    door.take_batch()
    with pytest.raises(Overloaded):
        door.take_batch()
    door.give_back_batch()
    door.take_batch()
    door.carry(7)
    with pytest.raises(Overloaded):
        door.carry(4)
    door.carry(3)
    assert door.body_bytes == 10


def test_a_flood_gets_fewer_places_than_a_steady_crowd() -> None:
    clock = Clock()
    places = Places(1.0, 0, clock)

    def seconds(refused: int) -> None:
        """In each, all who find a place are answered."""
        for _ in range(3):
            taken = fill(places)  # the last one is refused
            for _ in range(refused - 1):
                with pytest.raises(Overloaded):
                    places.check()
            clock.now += 1
            for since in taken:
                places.leave(since, served=True)

    seconds(refused=1)
    assert places.limit == LEAST
    seconds(refused=LEAST)
    assert places.limit == FEW
    seconds(refused=1)
    assert places.limit == LEAST
