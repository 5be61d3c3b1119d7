"""A generic micro-batcher: many callers, one worker or a few, few large batches. Knows nothing of models.

While the workers are busy, callers queue up; when one is free, it takes all that wait, up to a limit. An idle service
therefore answers at once, and a busy one fills its batches by itself (`wait_ms` can make it linger for more). Single
requests do not wait for the bulk: see `app.api.lines`.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar

from app.api.lines import Lines
from app.api.threads import Threads, presentable
from app.errors import NotReady, Overloaded, ShuttingDown

LOOK_AGAIN_S = 0.002  # whether the bulk is still to be held back

log = logging.getLogger(__name__)

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Timing:
    """Where an item's time went: waiting for the worker, and in the batch it was part of."""

    queue_ms: float
    work_ms: float
    batch_size: int


@dataclass(slots=True)
class _Waiting(Generic[Item, Result]):
    item: Item
    weight: int
    since: float
    bulk: bool
    future: asyncio.Future[tuple[Result, Timing]]

    @property
    def gone(self) -> bool:
        return self.future.done()


class MicroBatcher(Generic[Item, Result]):
    """Runs `work` on batches in threads of its own. Use on one event loop.

    If a batch fails, its halves are tried until the items that cause the failure stand alone: only they get the
    error. Items whose callers have gone are dropped before they cost anything. A batch that gets stuck fails as a whole,
    and those that wait are served by another thread: see `app.api.threads`.
    """

    def __init__(
        self,
        name: str,
        work: Callable[[Sequence[Item]], Sequence[Result]],
        *,
        max_batch: int,
        max_queue: int,
        workers: int = 1,
        wait_ms: float = 0.0,
        stuck_s: float = math.inf,
        note: Callable[[str], None] = lambda _: None,
        observe: Callable[[Timing], None] | None = None,
        hold: Callable[[], bool] = lambda: False,
    ) -> None:
        """Prepares the batcher; `start` begins the work.

        Args:
            name: for logs and the worker thread.
            work: a function of a batch that returns one result per item, in order.
            max_batch: weight of items per call of `work`; a heavier item goes alone.
            max_queue: items that may wait.
            workers: so many batches are worked on at the same time.
            wait_ms: how long an incomplete batch waits for company once a worker is free.
            stuck_s: how long a batch may take before its thread is given up.
            note: told the name whenever a worker, or its thread, has to be replaced.
            observe: told the timing of each batch.
            hold: says whether a single request is being served elsewhere, so that the bulk should wait.
        """
        self.name, self._work, self._observe, self._hold = name, work, observe, hold
        self._max_batch, self._max_queue, self._wait_s = max_batch, max_queue, wait_ms / 1000
        self._queue = Lines[_Waiting[Item, Result]](max_batch)
        self._arrived = asyncio.Event()
        self._workers: list[asyncio.Task[None]] = []
        self._slices = 0  # of the bulk that are being worked on
        self.threads = Threads(name, workers, stuck_s=stuck_s, note=note)
        self._note = note
        self._closing = False

    @property
    def depth(self) -> int:
        """Items that wait."""
        return len(self._queue)

    @property
    def alive(self) -> bool:
        """True while the workers take items."""
        return any(not worker.done() for worker in self._workers) and not self._closing

    def start(self) -> None:
        """Starts the workers on the running event loop."""
        name = f"{self.name}-worker"
        self._workers = [asyncio.create_task(self._keep_running(), name=name) for _ in range(self.threads.count)]

    async def stop(self, within_s: float | None = None) -> None:
        """Finishes what waits, then ends the workers. Further items are refused, and so are those not done in time.

        Args:
            within_s: seconds; None for as long as it takes.
        """
        self._closing = True
        self._arrived.set()
        if self._workers:
            await asyncio.wait(self._workers, timeout=within_s)
            for worker in self._workers:
                worker.cancel()
            await asyncio.wait(self._workers)
        for waiting in self._queue.clear():
            if not waiting.gone:
                waiting.future.set_exception(ShuttingDown())
        self.threads.close()

    async def submit(self, item: Item, weight: int = 1, *, bulk: bool = False) -> tuple[Result, Timing]:
        """Returns the item's result and where the time went.

        Args:
            item: for `work`.
            weight: what it adds to a batch.
            bulk: one of many, for which nobody waits in person.

        Raises:
            Overloaded: too many items wait already.
            NotReady: the batcher is not running.
            Exception: whatever `work` raised for this item alone.
        """
        if not self.alive:
            raise NotReady("the service is starting or stopping: try again in a moment.")
        if len(self._queue) >= self._max_queue:  # places of callers that have gone are free
            self._queue.drop_gone()
        if len(self._queue) >= self._max_queue:
            raise Overloaded(f"{self._max_queue} items wait already: try again in a moment.")
        future: asyncio.Future[tuple[Result, Timing]] = asyncio.get_running_loop().create_future()
        now_s = time.perf_counter()
        self._queue.add(_Waiting(item, weight, now_s, bulk, future), now_s, bulk=bulk)
        self._arrived.set()
        return await future

    async def _keep_running(self) -> None:
        while True:
            try:
                return await self._run()
            except Exception:
                log.exception("%s worker died and is started again", self.name)
                self._note(self.name)
                await asyncio.sleep(LOOK_AGAIN_S)

    async def _run(self) -> None:
        while not (self._closing and not self._queue):
            await self._arrived.wait()
            if self._wait_s and len(self._queue) < self._max_batch and not self._closing:
                await asyncio.sleep(self._wait_s)
            batch = self._take()
            if not self._queue and not self._closing:
                self._arrived.clear()
            if batch:
                await self._handle(batch)
            elif self._queue:
                await self._linger()

    def _take(self) -> list[_Waiting[Item, Result]]:
        """Returns the next batch. While single requests come now and then, the bulk leaves all workers but one to them."""
        now_s = time.perf_counter()
        shared = self._slices > 0 and self._queue.slice(now_s) < self._max_batch
        return self._queue.take(now_s, held=not self._closing and (shared or self._hold()))

    async def _linger(self) -> None:
        """Waits for a moment while the bulk is held back; newcomers end it."""
        self._arrived.clear()
        with suppress(TimeoutError):
            await asyncio.wait_for(self._arrived.wait(), LOOK_AGAIN_S)
        self._arrived.set()

    async def _handle(self, batch: list[_Waiting[Item, Result]]) -> None:
        started = time.perf_counter()
        items = [waiting.item for waiting in batch]
        self._slices += batch[0].bulk
        try:
            outcomes = await self.threads.run(partial(self._bisect, items))
        except asyncio.CancelledError:  # the service stops, and this takes too long
            self._queue.put_back(batch)
            raise
        except Exception as error:  # it got stuck: nobody may be left waiting
            log.exception("%s worker failed", self.name)
            outcomes = [error] * len(batch)
        finally:
            self._slices -= batch[0].bulk
        ended = time.perf_counter()
        timing = Timing(0.0, 0.0, 0)
        for waiting, outcome in zip(batch, outcomes, strict=True):
            timing = Timing((started - waiting.since) * 1000, (ended - started) * 1000, len(batch))
            if waiting.future.done():
                continue
            if isinstance(outcome, Exception):
                waiting.future.set_exception(outcome)
            else:
                waiting.future.set_result((outcome, timing))
        if self._observe is not None:
            try:
                self._observe(timing)
            except Exception:
                log.exception("%s observer failed", self.name)

    def _bisect(self, items: Sequence[Item]) -> list[Result | Exception]:
        try:
            results = list(self._work(items))
            if len(results) != len(items):
                raise RuntimeError(f"{self.name}: {len(items)} items in, {len(results)} results out")
            return list(results)
        except BaseException as error:  # noqa: BLE001 - also what is no Exception: the callers must hear of it
            if len(items) == 1:
                return [presentable(error)]
        half = len(items) // 2
        return self._bisect(items[:half]) + self._bisect(items[half:])
