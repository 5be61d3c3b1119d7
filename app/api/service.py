"""Between requests and the matcher: decoding in threads, embedding and searching in micro-batches."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from app.api.batching import MicroBatcher, Timing
from app.api.door import Door
from app.api.fetching import Fetcher, Resolve
from app.api.stages import Stages
from app.api.threads import Threads
from app.catalog.base import Stored
from app.core.answer import Answer
from app.core.product import Embedding, Prepared, Query
from app.errors import AppError, DeadlineExceeded, NotReady, Overloaded, ShuttingDown
from app.gauges import show_catalogs, show_resources, show_start
from app.judge import Rule, Verdict
from app.matcher import Matcher, MatchOptions, PreparedProduct
from app.settings import Settings
from app.telemetry import Metrics
from app.tracing import Tracing

PROBE_TIMEOUT_S = 10.0
SUSPICIOUS_S = 5.0  # a worker that has been at one piece of work for longer makes the service not ready
LOOK_S = 1.0
STOP_S = 5.0  # for what is left when nobody waits any more
RETRY_S = 0.05

log = logging.getLogger(__name__)

Asked = tuple[str, Query, Rule]  # of which catalog, what, and what makes a match
Found = tuple[Answer, float]  # and how many seconds the whole batch was judged, after it was searched for
Result = TypeVar("Result")
Item = TypeVar("Item")


class Service:
    """What the routes call. One instance per app, used on its event loop."""

    def __init__(
        self,
        matcher: Matcher,
        settings: Settings,
        metrics: Metrics,
        door: Door,
        resolve: Resolve | None = None,
        tracing: Tracing | None = None,
    ) -> None:
        """`resolve`: how the names of other machines are looked up; None: as this machine does."""
        self.matcher, self.settings, self.metrics, self.door = matcher, settings, metrics, door
        self._stages = Stages(metrics, tracing)
        self.fetcher = Fetcher.of(settings, resolve, metrics.stage.labels("fetch").observe)
        watched: dict[str, Any] = {
            "stuck_s": settings.stuck_s,
            "note": lambda name: metrics.worker_restarts.labels(name).inc(),
        }
        self._decoders = Threads("decode", settings.decode_threads, **watched)
        # threads of its own: a photo of a single request must not wait behind dozens of the bulk
        self._bulk_decoders = Threads("decode-bulk", max(1, settings.decode_threads // 2), **watched)
        self._decoding = 0
        self._in_person = 0  # steps of single requests that are under way
        self._writer = Threads("write")  # never given up: what it does must not be done twice at the same time
        note = self._stages.batch
        limits: dict[str, Any] = {"max_batch": settings.max_batch_size, "max_queue": settings.max_queue}
        limits |= watched | {"hold": lambda: self._in_person > 0}
        self._embedder = MicroBatcher[Prepared, Embedding](
            "encode", matcher.embed, workers=matcher.encoder.at_once, observe=lambda t: note("encode", t),
            wait_ms=settings.batch_wait_ms, **limits,
        )  # fmt: skip
        self._searcher = MicroBatcher[Asked, Found]("search", self._search, observe=lambda t: note("search", t), **limits)
        self._threads = (
            self._decoders, self._bulk_decoders, self._embedder.threads, self._searcher.threads, self._writer,
        )  # fmt: skip
        self._lasting: set[asyncio.Future[Any]] = set()
        self._watcher: asyncio.Task[None] | None = None
        self._batch_items = asyncio.Semaphore(max(1, settings.max_queue // 2))  # single requests keep the other half
        self._ready: tuple[float, AppError | None] = (0.0, NotReady("the service is starting: try again in a moment."))
        self._probing = asyncio.Lock()

    def start(self) -> None:
        """Starts the workers on the running event loop."""
        self._embedder.start()
        self._searcher.start()
        self._watcher = asyncio.create_task(self._watch())
        show_start(self.metrics, time.time())

    async def stop(self) -> None:
        """Finishes what has been accepted, as far as that takes no longer than it may; stops workers, closes the catalog."""
        deadline = time.monotonic() + STOP_S
        if self._lasting:  # changes of the catalog
            await asyncio.wait(self._lasting)
        for batcher in (self._embedder, self._searcher):
            await batcher.stop(max(0.0, deadline - time.monotonic()))
        if self._watcher is not None:
            self._watcher.cancel()
        self.fetcher.close()
        for threads in self._threads:
            threads.close()
        await asyncio.to_thread(self.matcher.close)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(min(LOOK_S, self.settings.stuck_s / 4))
            for threads in self._threads:
                threads.check()

    # -- steps -------------------------------------------------------------------------------------------------

    # `bulk` marks the items of batches: single requests go before them, see `app.api.lines`

    async def decode(self, read: Callable[[], Result], *, bulk: bool = False, stage: str = "decode") -> Result:
        """Runs a reading step in the decode threads. Raises Overloaded if too many wait, and what `read` raises."""
        if self._decoding >= self.settings.max_queue:
            raise Overloaded(f"{self._decoding} photos wait to be decoded: try again in a moment.")
        self._decoding += 1
        try:
            threads = self._bulk_decoders if bulk else self._decoders
            with self._known(bulk=bulk):
                return await self._stages.in_thread(threads.run, stage, read, bulk=bulk)
        finally:
            self._decoding -= 1

    async def embed(self, prepared: Prepared, *, bulk: bool = False) -> tuple[Embedding, Timing]:
        """Embeds one item, together with those of other callers."""
        with self._known(bulk=bulk):
            embedding, timing = await self._embedder.submit(prepared, max(1, len(prepared.photos)), bulk=bulk)
        self._stages.batched("encode", timing, bulk=bulk)
        return embedding, timing

    async def match(self, prepared: Prepared, options: MatchOptions, *, bulk: bool = False) -> Answer:
        """Embeds one query and searches for it."""
        embedding, _ = await self.embed(prepared, bulk=bulk)
        query = self.matcher.query(prepared, embedding, options)
        with self._known(bulk=bulk):
            (answer, judged_s), searching = await self._searcher.submit((options.catalog, query, options.rule), bulk=bulk)
        self._stages.batched("search", searching, bulk=bulk, then_s=judged_s)
        self._stages.item("judge", None, judged_s, bulk=bulk)
        return answer

    @contextmanager
    def _known(self, *, bulk: bool) -> Iterator[None]:
        """Lets the workers know that somebody waits in person, unless it is the bulk."""
        self._in_person += not bulk
        try:
            yield
        finally:
            self._in_person -= not bulk

    async def verify(self, image: bytes, catalog: str, answer: Answer) -> Answer:
        """Looks twice at the photos of doubtful matches, in the decode threads."""
        return await self.decode(lambda: self.matcher.verifier.verify(image, catalog, answer), stage="verify")

    async def compare(self, sides: tuple[Prepared, Prepared], rule: Rule) -> Verdict:
        """Embeds two products and judges them."""
        found = await asyncio.gather(*(self.embed(side) for side in sides))
        embeddings = [embedding for embedding, _ in found]
        return await self._stages.in_thread(
            asyncio.to_thread, "judge", lambda: self.matcher.compare(sides, embeddings, rule)
        )

    async def store(
        self, catalog: str, products: Sequence[PreparedProduct], embeddings: Sequence[Embedding]
    ) -> list[Stored]:
        """Commits products; returns after the commit."""
        drafts = [product.draft(embedding) for product, embedding in zip(products, embeddings, strict=True)]
        return await self.write(lambda: self.matcher.catalog.put(catalog, drafts))

    async def write(self, change: Callable[[], Result]) -> Result:
        """Runs a change of the catalog in the writer thread."""
        return await self._stages.in_thread(self._writer.run, "store", change)

    async def lasting(self, change: Awaitable[Result]) -> Result:
        """Waits for a change of the catalog, with what is to be said of it; it is finished even if the caller goes away."""
        task = asyncio.ensure_future(change)
        self._lasting.add(task)
        task.add_done_callback(self._lasting.discard)
        return await asyncio.shield(task)

    def _search(self, items: Sequence[Asked]) -> list[Found]:
        by_catalog: dict[str, list[int]] = defaultdict(list)
        for n, (catalog, _, _) in enumerate(items):
            by_catalog[catalog].append(n)
        answers: dict[int, Answer] = {}
        for catalog, members in by_catalog.items():
            found = self.matcher.candidates(catalog, [items[n][1] for n in members])
            answers.update(zip(members, found, strict=True))
        began = time.perf_counter()
        judged = self.matcher.judged([(query, answers[n], rule) for n, (_, query, rule) in enumerate(items)])
        took_s = time.perf_counter() - began
        self.metrics.stage.labels("judge").observe(took_s)
        return [(answer, took_s) for answer in judged]

    def refresh_gauges(self) -> None:
        """Brings the gauges up to date, just before they are read."""
        self.metrics.queue.labels("encode").set(self._embedder.depth)
        self.metrics.queue.labels("search").set(self._searcher.depth)
        self._stages.refresh()
        self.metrics.queue_limit.set(self.settings.max_queue)
        self.metrics.decode_threads.set(self.settings.decode_threads)
        self.metrics.model.labels(self.matcher.model).set(1)
        show_catalogs(self.metrics, self.matcher.catalog.catalogs())
        show_resources(self.metrics, self.settings.data_dir, self.matcher.gpu_memory)

    # -- batches -----------------------------------------------------------------------------------------------

    async def patiently(self, step: Callable[[], Awaitable[Result]]) -> Result:
        """Runs a step of a batch item, which waits for a place in the queues instead of being refused."""
        async with self._batch_items:
            while True:
                try:
                    return await step()
                except Overloaded:
                    await asyncio.sleep(RETRY_S)

    def reason_to_end(self, deadline_s: float | None) -> AppError | None:
        """Returns why a batch is to begin nothing more: the service stops, or its time on the event loop's clock is over."""
        if self.door.closing:
            return ShuttingDown("the service is stopping: send what is left again, to another one or in a moment.")
        if deadline_s is not None and asyncio.get_running_loop().time() >= deadline_s:
            return DeadlineExceeded("the time that this batch was given is over: send what is left again.")
        return None

    # -- readiness ---------------------------------------------------------------------------------------------

    async def check_ready(self) -> None:
        """Embeds and searches for real, through the same workers as every request; cached for a few seconds.

        Raises:
            AppError: the reason why the service cannot answer; that it stops or that a worker is stuck is told at once.
        """
        if self.door.closing:
            raise ShuttingDown
        self._check_threads()
        async with self._probing:
            checked, failure = self._ready
            if failure is not None or time.monotonic() - checked > self.settings.ready_cache_s:
                failure = await self._probe()
                self._ready = time.monotonic(), failure
        if failure is not None:
            raise failure

    def _check_threads(self) -> None:
        for threads in self._threads:
            if threads.exhausted:
                raise NotReady(f"the {threads.name} workers got stuck too often: the process must be started again.")
            patience_s = self.settings.stuck_s if threads is self._writer else min(SUSPICIOUS_S, self.settings.stuck_s)
            if threads.busy_s > patience_s:
                raise NotReady(f"a {threads.name} worker has been at one piece of work for {threads.busy_s:.0f} s.")

    async def _probe(self) -> AppError | None:
        try:
            async with asyncio.timeout(PROBE_TIMEOUT_S):
                prepared = await self.decode(self.matcher.probe)
                await self.match(prepared, MatchOptions(limit=1))
        except TimeoutError:
            return NotReady(f"a probe was not answered within {PROBE_TIMEOUT_S:.0f} s: look at the log and the queues.")
        except Overloaded:
            return None  # busy, and answering
        except AppError as error:  # whoever asks needs no key, and the text may name files
            log.warning("the readiness probe failed: %s", error)
            return NotReady(f"a probe failed ({error.code}): see the log.")
        except Exception:
            log.exception("the readiness probe failed")
            return NotReady("a probe failed: see the log.")
        return None
