"""Logs, metrics and request ids."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from contextvars import ContextVar
from typing import Any

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, disable_created_metrics

request_id: ContextVar[str] = ContextVar("request_id", default="-")
request_fields: ContextVar[dict[str, Any]] = ContextVar("request_fields")  # more for its log line

ALERTED_CODES = ("internal_error", "overloaded", "rate_limited", "unauthenticated", "forbidden")
WORKERS = ("decode", "decode-bulk", "encode", "search")
_LATENCY_S = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128)


def configure_logging(level: str, log_format: str) -> None:
    """Sends every logger's lines to standard error, as JSON (`json`) or coloured text (`console`)."""
    shared: list[structlog.typing.Processor] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(),
        _add_request_id,
        structlog.processors.TimeStamper(fmt="iso"),
    ]
    last: list[structlog.typing.Processor] = [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())]
    if log_format == "json":
        last = [structlog.processors.dict_tracebacks, structlog.processors.JSONRenderer()]
    remove_meta = structlog.stdlib.ProcessorFormatter.remove_processors_meta
    formatter = structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared, processors=[remove_meta, *last])
    handler = logging.StreamHandler()
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("app").setLevel(level.upper())
    logging.getLogger("app.audit").setLevel(
        logging.INFO
    )  # a record of who changed what must not depend on a taste for quiet
    logging.getLogger("uvicorn.error").setLevel(level.upper())
    logging.getLogger("python_multipart").setLevel(logging.ERROR)  # a warning for each odd byte that a stranger sends


def _add_request_id(_logger: object, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    event.setdefault("request_id", request_id.get())
    return event


class Metrics:
    """The service's Prometheus metrics, in a registry of their own; docs/operations.md lists them, kept complete by a test.

    Times are in seconds, sizes in bytes. Labels take values that the program chooses, not its callers: the only names of
    theirs are those of catalogs, of which `app.gauges` shows a bounded number.
    """

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series of each, which nobody asks for
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._describe_requests()
        self._describe_stages()
        self._describe_state()
        for code in ALERTED_CODES:  # a counter that begins with its first event has not risen, for an alert
            self.rejected.labels(code)
        for worker in WORKERS:
            self.worker_restarts.labels(worker)

    def _describe_requests(self) -> None:
        counter, histogram, gauge = self._counter, self._histogram, self._gauge
        self.requests = counter("requests", "Answered requests.", "method", "route", "status")
        self.latency = histogram("request_seconds", "Time to the end of the answer.", _LATENCY_S, "route")
        self.in_flight = gauge("requests_in_flight", "Requests that are being answered.")
        self.rejected = counter("rejected", "Refused requests and items of batches, by error code.", "code")
        self.items = counter("batch_items", "Items of batches that were taken.", "route")
        self.feedback = counter("feedback", "Statements about pairs, by verdict: same, different.", "verdict")

    def _describe_stages(self) -> None:
        counter, histogram, gauge = self._counter, self._histogram, self._gauge
        self.stage = histogram("stage_seconds", "Time of one stage's work on one batch, or one item.", _LATENCY_S, "stage")
        self.waited = histogram("queue_seconds", "Time that an item waited for a stage.", _LATENCY_S, "stage")
        self.batch = histogram("batch_size", "Items handled at once.", _SIZES, "stage")
        self.queue = gauge("queue_depth", "Items waiting for a stage.", "stage")
        self.queue_limit = gauge("queue_limit", "Items that may wait for a stage.")
        self.busy = gauge("stage_threads_busy", "Threads of a stage that are at work.", "stage")
        self.decode_threads = gauge("decode_threads", "Threads that decode photos of single requests.")
        self.worker_restarts = counter("worker_restarts", "Workers that were stuck or dead, and were replaced.", "worker")

    def _describe_state(self) -> None:
        gauge = self._gauge
        self.ready = gauge("ready", "1 if the last probe by /readyz was answered, else 0.")
        self.model = gauge("model_info", "The bundle in use.", "model")
        self.start = gauge("start_seconds", "From the start of the process until it could answer.")
        self.products = gauge("products", "Products in a catalog.", "catalog")
        self.catalogs = gauge("catalogs", "Catalogs, by where their index came from: snapshot, database, or new.", "opened")
        self.database = gauge("database_bytes", "Of the database with its log, on the disk.")
        self.disk_free = gauge("data_free_bytes", "Free for the service on the disk of the data folder.")
        self.disk_size = gauge("data_size_bytes", "Of the disk of the data folder.")
        self.threads = gauge("threads", "Threads of the process, those of libraries too.")
        self.gpu = gauge("gpu_memory_bytes", "Memory of the GPU: total, free, and reserved by this process.", "kind")

    def _counter(self, name: str, what: str, *labels: str) -> Counter:
        return Counter(f"samesku_{name}", what, labels, registry=self.registry)

    def _gauge(self, name: str, what: str, *labels: str) -> Gauge:
        return Gauge(f"samesku_{name}", what, labels, registry=self.registry)

    def _histogram(self, name: str, what: str, buckets: Sequence[float], *labels: str) -> Histogram:
        return Histogram(f"samesku_{name}", what, labels, buckets=buckets, registry=self.registry)
