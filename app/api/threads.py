"""Threads that notice when their work gets stuck.

A thread cannot be killed. One whose work takes far too long is given up: whoever waits for it gets an error, another thread
takes its place, and it ends by itself should its work ever end. After a few of these something is wrong that no thread will
cure: nothing more is taken, and the process wants to be started again.
"""

from __future__ import annotations

import asyncio
import logging
import math
import queue
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from app.errors import NotReady, WorkerStuck

MOST_GIVEN_UP = 3

log = logging.getLogger(__name__)

Result = TypeVar("Result")


@dataclass(eq=False, slots=True)
class _Job(Generic[Result]):
    work: Callable[[], Result]
    future: asyncio.Future[Result]
    loop: asyncio.AbstractEventLoop


@dataclass(eq=False, slots=True)
class _Seat:
    """A thread, and what it is at since when."""

    job: _Job[Any] | None = None
    since: float = 0.0
    given_up: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)


class Threads:
    """Runs work in a few threads. Use on one event loop; `check` must be called every second or so."""

    def __init__(
        self, name: str, count: int = 1, *, stuck_s: float = math.inf, note: Callable[[str], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        """Prepares the threads; they begin with the first work.

        Args:
            name: for logs and threads.
            count: of threads.
            stuck_s: how long one piece of work may take before it is given up.
            note: told the name whenever a thread is given up.
            clock: seconds, from any start.
        """
        self._note = note
        self.name, self.count, self._stuck_s, self._clock = name, count, stuck_s, clock
        self._jobs: queue.SimpleQueue[_Job[Any] | None] = queue.SimpleQueue()
        self._seats: set[_Seat] = set()
        self._given_up: set[_Seat] = set()
        self._closed = False

    @property
    def exhausted(self) -> bool:
        """True once so many threads were given up that no more work is taken; it stays true."""
        return len(self._given_up) >= MOST_GIVEN_UP

    @property
    def busy_s(self) -> float:
        """How long the oldest work has been going on."""
        return max((self._clock() - seat.since for seat in self._seats if seat.job is not None), default=0.0)

    async def run(self, work: Callable[[], Result]) -> Result:
        """Returns what `work` returns. A caller who is cancelled before its turn costs no work.

        Raises:
            WorkerStuck: it took too long.
            NotReady: no work is taken any more.
            Exception: whatever `work` raises; what is no Exception comes as a RuntimeError.
        """
        if self.exhausted or self._closed:
            raise NotReady(f"the {self.name} workers are stuck or stopped: the service must be started again.")
        while len(self._seats) < self.count:
            self._seat()
        loop = asyncio.get_running_loop()
        job: _Job[Result] = _Job(work, loop.create_future(), loop)
        self._jobs.put(job)
        return await job.future

    def check(self) -> None:
        """Gives up what has been going on for too long."""
        for seat in list(self._seats):
            with seat.lock:
                job = seat.job
                if job is None or self._clock() - seat.since < self._stuck_s:
                    continue
                seat.given_up = True
            self._seats.discard(seat)
            self._given_up.add(seat)
            fields = {"given_up": len(self._given_up), "after_s": self._stuck_s}
            log.error(f"a {self.name} worker is stuck and was given up", extra=fields)
            self._note(self.name)
            if not job.future.done():
                job.future.set_exception(WorkerStuck(f"the {self.name} worker got stuck: try again, or send less at once."))
            if not self.exhausted:
                self._seat()

    def close(self) -> None:
        """Lets the threads end after what they are at, without waiting for it."""
        self._closed = True
        for _ in self._seats:
            self._jobs.put(None)

    def _seat(self) -> None:
        seat = _Seat()
        self._seats.add(seat)
        # daemons: a thread that is stuck must not keep the process from ending
        threading.Thread(target=self._serve, args=(seat,), name=self.name, daemon=True).start()

    def _serve(self, seat: _Seat) -> None:
        while (job := self._jobs.get()) is not None:
            if job.future.done():  # nobody waits for it any more
                continue
            seat.since, seat.job = self._clock(), job
            outcome = _outcome(job.work)
            with seat.lock:
                seat.job = None
            with suppress(RuntimeError):  # the loop is closed: nobody waits
                job.loop.call_soon_threadsafe(_tell, job.future, *outcome)
            if seat.given_up:
                return
            del job, outcome  # large, and the next job may be long in coming


def _outcome(work: Callable[[], Result]) -> tuple[Result | None, Exception | None]:
    try:
        return work(), None
    except BaseException as error:  # noqa: BLE001 - also what is no Exception: whoever waits must hear of it
        return None, presentable(error)


def _tell(future: asyncio.Future[Any], result: Any, error: Exception | None) -> None:
    if future.done():  # cancelled, or given up
        return
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(result)


def presentable(error: BaseException) -> Exception:
    """Returns an exception that a future can carry: no StopIteration, and nothing that would end an event loop."""
    if isinstance(error, Exception) and not isinstance(error, StopIteration):
        return error
    wrapped = RuntimeError(f"the work raised {type(error).__name__}")
    wrapped.__cause__ = error
    return wrapped
