"""Where the time of a request goes: noted as metrics, in its log line, and as spans of its trace if it has one."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Awaitable, Callable
from typing import TypeVar

from app.api.batching import Timing
from app.telemetry import Metrics, request_fields
from app.tracing import Tracing

Result = TypeVar("Result")


class Stages:
    """Use on one event loop. Of the items of batches (`bulk`) there are metrics only: they may be thousands."""

    def __init__(self, metrics: Metrics, tracing: Tracing | None) -> None:
        self._metrics, self._tracing = metrics, tracing
        self._under_way: defaultdict[str, int] = defaultdict(int)

    async def in_thread(
        self, run: Callable[[Callable[[], Result]], Awaitable[Result]], stage: str, work: Callable[[], Result],
        *, bulk: bool = False,
    ) -> Result:  # fmt: skip
        """Runs `work` in a thread and notes how long it waited and worked, also if it fails. Raises what `work` raises.

        Args:
            run: has a function called in a thread of a pool.
            stage: what the work is called.
            work: what to do.
            bulk: one of the items of a batch.
        """
        times: list[float] = []
        busy, submitted = self._metrics.busy.labels(stage), time.perf_counter()

        def timed() -> Result:
            times.append(time.perf_counter())
            busy.inc()
            try:
                return work()
            finally:
                busy.dec()
                times.append(time.perf_counter())

        self._under_way[stage] += 1
        try:
            return await run(timed)
        finally:
            self._under_way[stage] -= 1
            if len(times) == 2:  # else the caller has gone before the end
                began, ended = times
                self._metrics.stage.labels(stage).observe(ended - began)
                self.item(stage, began - submitted, ended - began, bulk=bulk)

    def item(self, stage: str, waited_s: float | None, worked_s: float, *, bulk: bool = False, ago_s: float = 0.0) -> None:
        """Notes that an item has passed a stage just now, or `ago_s` seconds ago; None for one that nothing waits for."""
        if waited_s is not None:
            self._metrics.waited.labels(stage).observe(waited_s)
        if bulk:
            return
        fields = request_fields.get({})
        for name, seconds in (("queue_ms", waited_s or 0.0), (f"{stage}_ms", worked_s)):
            fields[name] = round(fields.get(name, 0.0) + seconds * 1000, 1)
        if self._tracing is not None:
            self._tracing.stage(stage, waited_s, worked_s, ago_s)

    def batched(self, stage: str, timing: Timing, *, bulk: bool = False, then_s: float = 0.0) -> None:
        """Notes that an item has passed a micro-batcher; the last `then_s` seconds of its work are another stage."""
        worked_s = timing.work_ms / 1000
        if not bulk and stage == "encode":
            request_fields.get({})["batch_size"] = timing.batch_size
        self.item(stage, timing.queue_ms / 1000, worked_s - then_s, bulk=bulk, ago_s=then_s)

    def batch(self, stage: str, timing: Timing) -> None:
        """Notes the work on a whole batch."""
        self._metrics.stage.labels(stage).observe(timing.work_ms / 1000)
        self._metrics.batch.labels(stage).observe(timing.batch_size)

    def refresh(self) -> None:
        """Brings the depths of the queues before threads up to date."""
        for stage, under_way in self._under_way.items():
            busy = self._metrics.registry.get_sample_value("samesku_stage_threads_busy", {"stage": stage}) or 0
            self._metrics.queue.labels(stage).set(max(0, under_way - int(busy)))
