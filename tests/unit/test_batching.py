from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.api.batching import MicroBatcher, Timing
from app.api.lines import Lines
from app.errors import NotReady, Overloaded, ShuttingDown, WorkerStuck

GUARD_S = 10  # nothing takes that long: a caller who is left waiting fails the test instead of hanging it

Batcher = MicroBatcher[int, int]


class Poisoned(Exception):
    """What the work raises for a bad item."""


class Panic(BaseException):
    """What a Rust extension raises: no Exception."""


class Gate:
    """Work that stops at a gate, so that a test decides what waits while the worker is busy. Doubles its items."""

    def __init__(self) -> None:
        self.entered, self.opened = threading.Event(), threading.Event()
        self.batches: list[list[int]] = []

    def __call__(self, items: Sequence[int]) -> list[int]:
        self.batches.append(list(items))
        self.entered.set()
        assert self.opened.wait(GUARD_S)
        return [2 * item for item in items]


def doubled(items: Sequence[int]) -> list[int]:
    return [2 * item for item in items]


def run(
    scenario: Callable[[Batcher], Awaitable[None]],
    work: Callable[[Sequence[int]], Sequence[int]] = doubled,
    max_batch: int = 4,
    max_queue: int = 100,
    observe: Callable[[Timing], None] | None = None,
    wait_ms: float = 0,
) -> None:
    async def main() -> None:
        batcher = Batcher("test", work, max_batch=max_batch, max_queue=max_queue, observe=observe, wait_ms=wait_ms)
        batcher.start()
        try:
            await asyncio.wait_for(scenario(batcher), GUARD_S)
        finally:
            await asyncio.wait_for(batcher.stop(), GUARD_S)

    asyncio.run(main())


async def passed(event: threading.Event) -> None:
    assert await asyncio.to_thread(event.wait, GUARD_S)


async def submitted(batcher: Batcher, *items: int, weight: int = 1) -> list[asyncio.Task[tuple[int, Timing]]]:
    """Tasks whose items wait in the queue."""
    depth = batcher.depth
    tasks = [asyncio.create_task(batcher.submit(item, weight)) for item in items]
    await asyncio.sleep(0)  # lets every task put its item into the queue
    assert batcher.depth == depth + len(items)
    return tasks


async def busy(batcher: Batcher, gate: Gate) -> asyncio.Task[tuple[int, Timing]]:
    """The task of an item that keeps the worker at the gate."""
    task = asyncio.create_task(batcher.submit(0))
    await passed(gate.entered)
    return task


async def results(tasks: Sequence[asyncio.Task[tuple[int, Timing]]]) -> list[int | BaseException]:
    found = await asyncio.gather(*tasks, return_exceptions=True)
    return [one if isinstance(one, BaseException) else one[0] for one in found]


def test_every_caller_gets_the_result_of_its_own_item() -> None:
    async def scenario(batcher: Batcher) -> None:
        found = await asyncio.gather(*(batcher.submit(n) for n in range(50)))
        assert [result for result, _ in found] == [2 * n for n in range(50)]

    run(scenario)


def test_batches_fill_while_the_worker_is_busy() -> None:
    gate = Gate()

    async def scenario(batcher: Batcher) -> None:
        first = await busy(batcher, gate)
        tasks = await submitted(batcher, *range(1, 11))
        gate.opened.set()
        assert await results([first, *tasks]) == [2 * n for n in range(11)]

    run(scenario, gate)
    assert gate.batches == [[0], [1, 2, 3, 4], [5, 6, 7, 8], [9, 10]]


def test_a_batch_never_weighs_more_than_the_limit() -> None:
    gate = Gate()

    async def scenario(batcher: Batcher) -> None:
        tasks = [await busy(batcher, gate)]
        for item, weight in ((1, 2), (2, 1), (3, 2), (4, 4), (5, 1), (6, 3)):
            tasks += await submitted(batcher, item, weight=weight)
        gate.opened.set()
        await results(tasks)

    run(scenario, gate)
    assert gate.batches == [[0], [1, 2], [3], [4], [5, 6]]


def test_an_item_heavier_than_a_batch_goes_alone() -> None:
    gate = Gate()

    async def scenario(batcher: Batcher) -> None:
        tasks = [await busy(batcher, gate)]
        for item, weight in ((1, 1), (2, 9), (3, 1), (4, 1)):
            tasks += await submitted(batcher, item, weight=weight)
        gate.opened.set()
        assert await results(tasks) == [0, 2, 4, 6, 8]

    run(scenario, gate)
    assert gate.batches == [[0], [1], [2], [3, 4]]


def test_the_timing_tells_the_size_of_the_batch() -> None:
    gate = Gate()
    seen: list[Timing] = []

    async def scenario(batcher: Batcher) -> None:
        tasks = [await busy(batcher, gate), *await submitted(batcher, 1, 2)]
        gate.opened.set()
        timings = [(await task)[1] for task in tasks]
        assert [timing.batch_size for timing in timings] == [1, 2, 2]
        assert all(timing.queue_ms >= 0 and timing.work_ms >= 0 for timing in timings)

    run(scenario, gate, observe=seen.append)
    assert [timing.batch_size for timing in seen] == [1, 2]


# -- failures -------------------------------------------------------------------------------------------------


def poisoned(bad: set[int], log: list[list[int]] | None = None) -> Callable[[Sequence[int]], list[int]]:
    def work(items: Sequence[int]) -> list[int]:
        if log is not None:
            log.append(list(items))
        found = sorted(bad.intersection(items))
        if found:
            raise Poisoned(f"bad: {found}")
        return doubled(items)

    return work


def test_a_bad_item_fails_alone() -> None:
    log: list[list[int]] = []

    async def scenario(batcher: Batcher) -> None:
        found = await results([asyncio.create_task(batcher.submit(n)) for n in range(8)])
        assert [n for n, one in enumerate(found) if isinstance(one, Poisoned)] == [5]
        assert str(found[5]) == "bad: [5]"
        assert [one for one in found if not isinstance(one, BaseException)] == [0, 2, 4, 6, 8, 12, 14]

    run(scenario, poisoned({5}, log), max_batch=8)
    assert log == [[0, 1, 2, 3, 4, 5, 6, 7], [0, 1, 2, 3], [4, 5, 6, 7], [4, 5], [4], [5], [6, 7]]


@settings(max_examples=60)
@given(st.lists(st.tuples(st.integers(1, 6), st.booleans()), max_size=25), st.integers(1, 8))
def test_whatever_is_poisoned_the_others_get_their_results(items: list[tuple[int, bool]], max_batch: int) -> None:
    bad = {n for n, (_, is_bad) in enumerate(items) if is_bad}
    log: list[list[int]] = []

    async def scenario(batcher: Batcher) -> None:
        found = await results([asyncio.create_task(batcher.submit(n, weight)) for n, (weight, _) in enumerate(items)])
        assert [isinstance(one, Poisoned) for one in found] == [n in bad for n in range(len(items))]
        assert all(one == 2 * n for n, one in enumerate(found) if n not in bad)

    run(scenario, poisoned(bad, log), max_batch=max_batch)
    assert all(len(batch) == 1 or sum(items[n][0] for n in batch) <= max_batch for batch in log)


@pytest.mark.parametrize("answer", [[], [1], [1, 2, 3]])
def test_a_wrong_number_of_results_is_an_error_and_nobody_gets_somebody_elses(answer: list[int]) -> None:
    def work(items: Sequence[int]) -> list[int]:
        return answer if len(items) > 1 else []

    async def scenario(batcher: Batcher) -> None:
        found = await results([asyncio.create_task(batcher.submit(n)) for n in range(2)])
        assert [type(one) for one in found] == [RuntimeError, RuntimeError]
        assert "1 items in, 0 results out" in str(found[0])

    run(scenario, work)


@pytest.mark.parametrize(
    "error", [ValueError, MemoryError, TimeoutError, StopIteration, StopAsyncIteration, Panic, asyncio.CancelledError]
)
def test_the_worker_survives_whatever_the_work_raises(error: type[BaseException]) -> None:
    def work(items: Sequence[int]) -> list[int]:
        if 0 in items:
            raise error
        return doubled(items)

    async def main() -> None:
        batcher = Batcher("test", work, max_batch=4, max_queue=4)
        batcher.start()
        _, waiting = await asyncio.wait([asyncio.create_task(batcher.submit(0))], timeout=2)
        assert not waiting, "the caller is left waiting"
        assert batcher.alive
        assert (await asyncio.wait_for(batcher.submit(1), GUARD_S))[0] == 2
        await batcher.stop()

    asyncio.run(main())


def test_the_worker_survives_an_observer_that_fails() -> None:
    def observe(_: Timing) -> None:
        raise ValueError("the observer failed")

    async def main() -> None:
        batcher = Batcher("test", doubled, max_batch=4, max_queue=4, observe=observe)
        batcher.start()
        for n in range(3):
            assert (await asyncio.wait_for(batcher.submit(n), GUARD_S))[0] == 2 * n
        await batcher.stop()

    asyncio.run(main())


def test_a_worker_that_dies_is_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    deaths = iter([ValueError("the lines broke"), KeyError("again")])
    take = Lines.take

    def dying(*given: Any, **named: Any) -> Any:
        for death in deaths:
            raise death
        return take(*given, **named)

    async def scenario(batcher: Batcher) -> None:
        monkeypatch.setattr(Lines, "take", dying)
        assert await results([asyncio.create_task(batcher.submit(n)) for n in range(3)]) == [0, 2, 4]
        assert batcher.alive

    run(scenario)


def test_two_workers_take_what_waits_at_the_same_time() -> None:
    meeting = threading.Barrier(2, timeout=GUARD_S)

    def together(items: Sequence[int]) -> list[int]:
        meeting.wait()  # two batches, or it breaks
        return doubled(items)

    async def main() -> None:
        batcher = Batcher("test", together, max_batch=1, max_queue=9, workers=2)
        batcher.start()
        assert await results([asyncio.create_task(batcher.submit(n)) for n in range(4)]) == [0, 2, 4, 6]
        await asyncio.wait_for(batcher.stop(), GUARD_S)
        assert not batcher.alive

    asyncio.run(main())


def test_the_bulk_leaves_a_worker_to_single_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.api.lines.HOLD_S", 10 * GUARD_S)
    gate = Gate()

    async def main() -> None:
        work = lambda items: gate(items) if {0, 8} & set(items) else doubled(items)  # noqa: E731
        batcher = Batcher("test", work, max_batch=8, max_queue=9, workers=2)
        batcher.start()
        assert (await batcher.submit(1))[0] == 2  # somebody asked a moment ago: slices are small
        bulk = [asyncio.create_task(batcher.submit(n, bulk=True)) for n in (0, 7, 8)]
        await passed(gate.entered)
        assert (await asyncio.wait_for(batcher.submit(3), GUARD_S))[0] == 6
        assert gate.batches == [[0, 7]]
        gate.opened.set()
        assert await results(bulk) == [0, 14, 16]
        await asyncio.wait_for(batcher.stop(), GUARD_S)

    asyncio.run(main())


def test_a_stop_that_takes_too_long_tells_those_who_wait() -> None:
    gate = Gate()

    async def main() -> None:
        batcher = Batcher("test", gate, max_batch=1, max_queue=10)
        batcher.start()
        tasks = [await busy(batcher, gate), *await submitted(batcher, 1, 2)]
        await asyncio.wait_for(batcher.stop(0.01), GUARD_S)
        assert [type(one) for one in await results(tasks)] == [ShuttingDown] * 3
        gate.opened.set()

    asyncio.run(main())


def test_a_batch_that_gets_stuck_fails_and_the_next_is_served() -> None:
    gate = Gate()

    async def main() -> None:
        batcher = Batcher(
            "test", lambda items: gate(items) if 0 in items else doubled(items), max_batch=1, max_queue=9, stuck_s=0
        )
        batcher.start()
        tasks = [await busy(batcher, gate), *await submitted(batcher, 1, 2)]
        batcher.threads.check()
        found = await results(tasks)
        assert [type(found[0]), *found[1:]] == [WorkerStuck, 2, 4]
        gate.opened.set()
        await batcher.stop()

    asyncio.run(main())


# -- callers who go, queues that are full ---------------------------------------------------------------------


def test_callers_who_have_gone_cost_no_work() -> None:
    gate = Gate()

    async def scenario(batcher: Batcher) -> None:
        first = await busy(batcher, gate)
        tasks = await submitted(batcher, 1, 2, 3)
        tasks[1].cancel()
        await asyncio.wait([tasks[1]])
        gate.opened.set()
        assert await results([first, tasks[0], tasks[2]]) == [0, 2, 6]

    run(scenario, gate)
    assert gate.batches == [[0], [1, 3]]


def test_a_queue_of_nothing_but_gone_callers_wakes_no_work() -> None:
    gate = Gate()

    async def scenario(batcher: Batcher) -> None:
        first = await busy(batcher, gate)
        tasks = await submitted(batcher, 1, 2)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        gate.opened.set()
        await first
        assert (await batcher.submit(3))[0] == 6

    run(scenario, gate)
    assert gate.batches == [[0], [3]]


def test_a_caller_may_go_while_its_item_is_worked_on() -> None:
    gate = Gate()

    async def scenario(batcher: Batcher) -> None:
        first = await busy(batcher, gate)
        first.cancel()
        await asyncio.wait([first])
        gate.opened.set()
        assert (await batcher.submit(1))[0] == 2

    run(scenario, gate)


def test_a_full_queue_refuses_more() -> None:
    gate = Gate()

    async def scenario(batcher: Batcher) -> None:
        tasks = [await busy(batcher, gate), *await submitted(batcher, 1, 2)]
        assert batcher.depth == 2
        with pytest.raises(Overloaded) as refused:
            await batcher.submit(3)
        assert refused.value.retry_after_s >= 1
        gate.opened.set()
        assert await results(tasks) == [0, 2, 4]
        assert (await batcher.submit(3))[0] == 6

    run(scenario, gate, max_queue=2)


def test_callers_who_have_gone_leave_their_places_in_the_queue() -> None:
    gate = Gate()

    async def scenario(batcher: Batcher) -> None:
        first = await busy(batcher, gate)
        gone = await submitted(batcher, 1, 2)
        for task in gone:
            task.cancel()
        await asyncio.wait(gone)
        late = asyncio.create_task(batcher.submit(3))
        await asyncio.sleep(0)
        gate.opened.set()
        assert await results([first, late]) == [0, 6]

    run(scenario, gate, max_queue=2)


# -- starting and stopping ------------------------------------------------------------------------------------


def test_before_the_start_and_after_the_stop_nothing_is_taken() -> None:
    async def main() -> None:
        batcher = Batcher("test", doubled, max_batch=4, max_queue=4)
        assert not batcher.alive
        with pytest.raises(NotReady):
            await batcher.submit(1)
        batcher.start()
        assert batcher.alive
        await batcher.stop()
        assert not batcher.alive
        with pytest.raises(NotReady):
            await batcher.submit(1)

    asyncio.run(main())


def test_a_batcher_that_never_started_can_be_stopped() -> None:
    asyncio.run(Batcher("test", doubled, max_batch=4, max_queue=4).stop())


def test_stopping_finishes_what_waits() -> None:
    gate = Gate()

    async def main() -> None:
        batcher = Batcher("test", gate, max_batch=2, max_queue=10)
        batcher.start()
        tasks = [await busy(batcher, gate), *await submitted(batcher, 1, 2, 3)]
        stopping = asyncio.create_task(batcher.stop())
        await asyncio.sleep(0)
        with pytest.raises(NotReady):
            await batcher.submit(4)
        gate.opened.set()
        await asyncio.wait_for(stopping, GUARD_S)
        assert await results(tasks) == [0, 2, 4, 6]

    asyncio.run(main())
    assert gate.batches == [[0], [1, 2], [3]]


def test_the_event_loop_is_free_while_the_worker_is_busy() -> None:
    gate = Gate()
    threads: list[Any] = []

    def work(items: Sequence[int]) -> list[int]:
        threads.append(threading.current_thread())
        return gate(items)

    async def scenario(batcher: Batcher) -> None:
        first = await busy(batcher, gate)
        assert not first.done()
        gate.opened.set()
        await first

    run(scenario, work)
    assert threads[0] is not threading.main_thread()


def test_a_batch_may_wait_for_company() -> None:
    log: list[list[int]] = []

    async def scenario(batcher: Batcher) -> None:
        found = await asyncio.gather(*(batcher.submit(n) for n in range(3)))
        assert [result for result, _ in found] == [0, 2, 4]

    run(scenario, poisoned(set(), log), wait_ms=1)
    assert log == [[0, 1, 2]]


# -- single requests and the bulk -----------------------------------------------------------------------------


async def bulk_submitted(batcher: Batcher, *items: int) -> list[asyncio.Task[tuple[int, Timing]]]:
    tasks = [asyncio.create_task(batcher.submit(item, bulk=True)) for item in items]
    await asyncio.sleep(0)
    return tasks


def test_a_single_request_is_served_ahead_of_the_bulk_that_waits_and_alone() -> None:
    gate = Gate()

    async def scenario(batcher: Batcher) -> None:
        tasks = await bulk_submitted(batcher, 100)
        await passed(gate.entered)
        tasks += await bulk_submitted(batcher, *range(101, 111))
        tasks += await submitted(batcher, 1)
        gate.opened.set()
        await results(tasks)

    run(scenario, gate, max_batch=32)
    assert gate.batches[:2] == [[100], [1]]
    assert [item for batch in gate.batches[2:] for item in batch] == list(range(101, 111))


def test_the_bulk_gets_its_slice_after_every_batch_of_single_requests() -> None:
    gate = Gate()

    async def scenario(batcher: Batcher) -> None:
        tasks = [await busy(batcher, gate), *await bulk_submitted(batcher, *range(100, 110))]
        tasks += await submitted(batcher, *range(1, 9))
        gate.opened.set()
        await results(tasks)

    run(scenario, gate, max_batch=4)
    kinds = ["bulk" if batch[0] >= 100 else "single" for batch in gate.batches]
    assert kinds[:5] == ["single", "bulk", "single", "bulk", "single"]
    assert sorted(item for batch in gate.batches for item in batch) == [*range(9), *range(100, 110)]


def test_the_bulk_that_is_held_back_goes_on_in_time_and_newcomers_do_not_wait_for_it() -> None:
    busy_elsewhere = [True]

    async def main() -> None:
        batcher = Batcher("test", doubled, max_batch=2, max_queue=100, hold=lambda: busy_elsewhere[0])
        batcher.start()
        tasks = await bulk_submitted(batcher, *range(10))
        assert (await asyncio.wait_for(batcher.submit(50), GUARD_S))[0] == 100
        held = await asyncio.wait_for(asyncio.gather(*tasks[:4]), GUARD_S)  # although nobody ends the hold
        assert [result for result, _ in held] == [0, 2, 4, 6]
        busy_elsewhere[0] = False
        assert await results(tasks) == [2 * n for n in range(10)]
        busy_elsewhere[0] = True
        last = await bulk_submitted(batcher, 7)
        await asyncio.wait_for(batcher.stop(), GUARD_S)
        assert await results(last) == [14]

    asyncio.run(main())
