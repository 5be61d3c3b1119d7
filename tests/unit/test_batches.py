"""The order of an epoch."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from app.training.batches import EpochBatches, Visit, epoch_order

labellings = st.lists(st.integers(0, 12), min_size=1, max_size=120).map(lambda found: np.array(found, np.int64))
seeds = st.integers(0, 2**31 - 1)


@given(labels=labellings, most=st.integers(1, 8), seed=seeds, epoch=st.integers(0, 50))
def test_an_epoch_visits_every_group_as_often_as_it_may_and_no_listing_twice(
    labels: NDArray[np.int64], most: int, seed: int, epoch: int
) -> None:
    order = epoch_order(labels, most, seed, epoch)
    assert len(set(order.tolist())) == len(order)
    np.testing.assert_array_equal(
        np.bincount(labels[order], minlength=13), np.minimum(np.bincount(labels, minlength=13), most)
    )
    np.testing.assert_array_equal(order, epoch_order(labels, most, seed, epoch))


def test_epochs_and_seeds_differ_and_large_groups_get_their_turn() -> None:
    labels = np.repeat(np.arange(4), [50, 3, 3, 3]).astype(np.int64)
    orders = [epoch_order(labels, 5, 1, epoch).tolist() for epoch in range(60)]
    assert len({tuple(order) for order in orders}) == 60
    assert {listing for order in orders for listing in order} == set(range(59))
    assert epoch_order(labels, 5, 2, 0).tolist() != orders[0]
    first = [order[0] for order in orders]
    assert len(set(first)) > 20  # nothing is always in front


def visits(labels: NDArray[np.int64], *, batch_size: int = 4, most: int = 10, seed: int = 3, **place: int) -> EpochBatches:
    return EpochBatches(labels, [n % 7 for n in range(len(labels))], batch_size, most, seed, **place)


@given(labels=labellings, batch_size=st.integers(2, 9), most=st.integers(1, 5), processes=st.integers(1, 4), seed=seeds)
def test_processes_share_an_epoch_in_equally_many_full_batches(
    labels: NDArray[np.int64], batch_size: int, most: int, processes: int, seed: int
) -> None:
    place = {"processes": processes}
    all_of = [visits(labels, batch_size=batch_size, most=most, seed=seed, process=n, **place) for n in range(processes)]
    for one in all_of:
        one.set_epoch(2)
    found = [list(one) for one in all_of]
    assert [len(batches) for batches in found] == [len(one) for one in all_of]
    assert len({len(batches) for batches in found}) == 1
    assert {len(batch) for batches in found for batch in batches} == {batch_size}
    seen = [listing for batches in found for batch in batches for listing, _ in batch]
    available = epoch_order(labels, most, seed, 2)
    if len(available) >= batch_size * processes:
        assert len(set(seen)) == len(seen)
        assert len(available) - len(seen) < batch_size * processes
    else:  # too few for one batch each: repeated, as evenly as can be
        assert set(seen) == set(available.tolist())
        assert max(seen.count(one) for one in seen) - min(seen.count(one) for one in seen) <= 1
    assert {epoch for batches in found for batch in batches for _, epoch in batch} == {2}


def test_what_an_epoch_leaves_over_is_visited_in_another() -> None:
    labels = np.arange(30, dtype=np.int64)
    batches = visits(labels, batch_size=8)
    seen: set[int] = set()
    for epoch in range(12):
        batches.set_epoch(epoch)
        seen |= {listing for batch in batches for listing, _ in batch}
    assert seen == set(range(30))


@given(labels=labellings, skip=st.integers(0, 40), epoch=st.integers(0, 9), processes=st.integers(1, 3))
def test_going_on_gives_exactly_the_batches_that_were_left(
    labels: NDArray[np.int64], skip: int, epoch: int, processes: int
) -> None:
    whole = visits(labels, process=processes - 1, processes=processes)
    whole.set_epoch(epoch)
    expected: list[list[Visit]] = list(whole)
    skip = min(skip, len(expected))
    rest = visits(labels, process=processes - 1, processes=processes)
    rest.set_epoch(epoch, skip)
    assert len(rest) == len(expected) - skip
    assert list(rest) == expected[skip:]


def test_titles_of_like_length_share_a_batch() -> None:
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 200, 640)
    batches = EpochBatches(np.arange(640), lengths.tolist(), 16, 10, 0)
    spans = [np.ptp(lengths[[listing for listing, _ in batch]]) for batch in batches]
    assert np.mean(spans) < 30  # of random batches it is about 175
    means = [lengths[[listing for listing, _ in batch]].mean() for batch in batches]
    assert abs(np.corrcoef(means, np.arange(len(means)))[0, 1]) < 0.5  # and short ones do not come first


@pytest.mark.parametrize("epoch", [0, 1])
def test_iterating_twice_gives_the_same(epoch: int) -> None:
    batches = visits(np.repeat(np.arange(9), 5))
    batches.set_epoch(epoch)
    assert list(batches) == list(batches)
