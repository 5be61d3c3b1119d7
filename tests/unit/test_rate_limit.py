"""Token buckets, with a clock that the test turns."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.api.rate_limit import RateLimiter
from app.errors import RateLimited
from tests.fakes import Clock


def refused(limiter: RateLimiter, key: str) -> int:
    """The seconds that a refused request is told to wait; 0 if it is let in."""
    try:
        limiter.take(key)
    except RateLimited as error:
        return error.retry_after_s
    return 0


def test_a_burst_is_let_in_and_then_the_rate() -> None:
    clock = Clock()
    limiter = RateLimiter(2, 3, clock)
    assert [refused(limiter, "a") for _ in range(4)] == [0, 0, 0, 1]
    clock.now += 0.5
    assert [refused(limiter, "a") for _ in range(2)] == [0, 1]
    clock.now += 1000
    assert [refused(limiter, "a") for _ in range(4)] == [0, 0, 0, 1]  # a bucket holds no more than a burst


def test_one_key_does_not_wait_for_another() -> None:
    limiter = RateLimiter(1, 1, Clock())
    assert [refused(limiter, key) for key in "abab"] == [0, 0, 1, 1]


def test_a_batch_pays_for_its_items_afterwards() -> None:
    clock = Clock()
    limiter = RateLimiter(2, 5, clock)
    limiter.take("a")
    limiter.charge("a", 20)
    assert refused(limiter, "a") == 9  # 16 tokens short, and one for itself
    clock.now += 9
    assert refused(limiter, "a") == 0


@pytest.mark.parametrize("calls", [1, 1000])
def test_without_a_rate_nobody_waits(calls: int) -> None:
    limiter = RateLimiter(0, 1, Clock())
    limiter.charge("a", 10**9)
    assert not any(refused(limiter, "a") for _ in range(calls))


@given(
    st.floats(0.1, 50),
    st.integers(1, 20),
    st.lists(st.tuples(st.sampled_from("ab"), st.floats(0, 2)), min_size=1, max_size=80),
)
def test_no_key_ever_gets_more_than_burst_and_rate(per_s: float, burst: int, calls: list[tuple[str, float]]) -> None:
    clock = Clock()
    limiter = RateLimiter(per_s, burst, clock)
    started, let_in = clock.now, {"a": 0, "b": 0}
    for key, pause in calls:
        clock.now += pause
        wait_s = refused(limiter, key)
        if wait_s:
            clock.now += wait_s
            assert refused(limiter, key) == 0  # who waits as long as it was told to is let in
        let_in[key] += 1
        assert let_in[key] <= burst + (clock.now - started) * per_s + 1e-6
