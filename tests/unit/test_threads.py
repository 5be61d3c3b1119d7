"""Threads that get stuck, with gates and a clock that the test turns."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable

import pytest

from app.api.threads import MOST_GIVEN_UP, Threads
from app.errors import NotReady, WorkerStuck
from tests.fakes import Clock

GUARD_S = 10
STUCK_S = 30.0


class Stuck:
    """Work that does not end before the test says so."""

    def __init__(self) -> None:
        self.entered, self.opened = threading.Event(), threading.Event()
        self.thread: threading.Thread | None = None

    def __call__(self) -> str:
        self.thread = threading.current_thread()
        self.entered.set()
        assert self.opened.wait(GUARD_S)
        return "late"

    async def begun(self) -> None:
        assert await asyncio.to_thread(self.entered.wait, GUARD_S)


def run(scenario: Callable[[Threads, Clock], Awaitable[None]], count: int = 1) -> None:
    async def main() -> None:
        clock = Clock()
        threads = Threads("test", count, stuck_s=STUCK_S, clock=clock)
        try:
            await asyncio.wait_for(scenario(threads, clock), GUARD_S)
        finally:
            threads.close()

    asyncio.run(main())


def test_work_is_done_in_as_many_threads_as_there_are() -> None:
    async def scenario(threads: Threads, clock: Clock) -> None:
        first, second = Stuck(), Stuck()
        tasks = [asyncio.create_task(threads.run(one)) for one in (first, second)]
        await first.begun()
        await second.begun()
        assert first.thread is not second.thread
        first.opened.set()
        second.opened.set()
        assert await asyncio.gather(*tasks) == ["late", "late"]

    run(scenario, count=2)


@pytest.mark.parametrize("error", [ValueError, MemoryError, StopIteration, KeyboardInterrupt, SystemExit, GeneratorExit])
def test_a_thread_survives_whatever_the_work_raises(error: type[BaseException]) -> None:
    def fail() -> None:
        raise error

    async def scenario(threads: Threads, clock: Clock) -> None:
        thread = await threads.run(threading.current_thread)
        with pytest.raises(error if error in (ValueError, MemoryError) else RuntimeError):
            await threads.run(fail)
        assert await threads.run(threading.current_thread) is thread

    run(scenario)


def test_stuck_work_is_given_up_and_another_thread_takes_the_place() -> None:
    async def scenario(threads: Threads, clock: Clock) -> None:
        stuck = Stuck()
        failing, waiting = asyncio.create_task(threads.run(stuck)), asyncio.create_task(threads.run(lambda: "next"))
        await stuck.begun()
        clock.now += STUCK_S - 1
        threads.check()
        assert threads.busy_s == STUCK_S - 1
        assert not failing.done()
        clock.now += 1
        threads.check()
        with pytest.raises(WorkerStuck):
            await failing
        assert await waiting == "next"
        assert threads.busy_s == 0
        assert not threads.exhausted
        stuck.opened.set()
        assert stuck.thread is not None
        await asyncio.to_thread(stuck.thread.join, GUARD_S)
        assert not stuck.thread.is_alive()  # it ends by itself, and takes nothing more
        assert await threads.run(lambda: "again") == "again"

    run(scenario)


def test_after_a_few_nothing_is_taken_any_more() -> None:
    async def scenario(threads: Threads, clock: Clock) -> None:
        every = [Stuck() for _ in range(MOST_GIVEN_UP)]
        for stuck in every:
            assert not threads.exhausted
            task = asyncio.create_task(threads.run(stuck))
            await stuck.begun()
            clock.now += STUCK_S
            threads.check()
            with pytest.raises(WorkerStuck):
                await task
        assert threads.exhausted
        for stuck in every:
            stuck.opened.set()
        with pytest.raises(NotReady, match="started again"):
            await threads.run(lambda: None)

    run(scenario)


def test_a_caller_who_has_gone_before_its_turn_costs_no_work() -> None:
    done: list[int] = []

    async def scenario(threads: Threads, clock: Clock) -> None:
        stuck = Stuck()
        first = asyncio.create_task(threads.run(stuck))
        await stuck.begun()
        gone, kept = (asyncio.create_task(threads.run(lambda n=n: done.append(n))) for n in (1, 2))  # type: ignore[misc]
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.wait([gone])
        stuck.opened.set()
        await first
        await kept

    run(scenario)
    assert done == [2]


def test_threads_that_are_stuck_do_not_keep_the_process() -> None:
    async def scenario(threads: Threads, clock: Clock) -> None:
        assert (await threads.run(threading.current_thread)).daemon

    run(scenario)


def test_closed_threads_take_nothing_and_end() -> None:
    async def scenario(threads: Threads, clock: Clock) -> None:
        thread = await threads.run(threading.current_thread)
        threads.close()
        await asyncio.to_thread(thread.join, GUARD_S)
        assert not thread.is_alive()
        with pytest.raises(NotReady):
            await threads.run(lambda: None)

    run(scenario)
