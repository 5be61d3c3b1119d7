"""Logs, metrics and request ids."""

from __future__ import annotations

import logging
import sys
from contextvars import ContextVar

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

request_id: ContextVar[str] = ContextVar("request_id", default="-")

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
    """The service's Prometheus metrics, in a registry of their own. Times in seconds, as Prometheus wants them."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "samesku_requests", "Answered requests.", ["method", "route", "status"], registry=self.registry
        )
        self.latency = Histogram(
            "samesku_request_seconds",
            "Time to the end of the answer.",
            ["route"],
            buckets=_LATENCY_S,
            registry=self.registry,
        )
        self.stage = Histogram(
            "samesku_stage_seconds", "Time in one stage: fetch, queue, encode, search.", ["stage"],
            buckets=_LATENCY_S, registry=self.registry,
        )  # fmt: skip
        self.batch = Histogram(
            "samesku_batch_size", "Items handled at once.", ["stage"], buckets=_SIZES, registry=self.registry
        )
        self.queue = Gauge("samesku_queue_depth", "Items waiting.", ["stage"], registry=self.registry)
        self.products = Gauge("samesku_products", "Products in a catalog.", ["catalog"], registry=self.registry)
        self.model = Gauge("samesku_model_info", "The bundle in use.", ["model"], registry=self.registry)
        self.feedback = Counter(
            "samesku_feedback", "Statements about pairs, by verdict: same, different.", ["verdict"], registry=self.registry
        )
        self.rejected = Counter("samesku_rejected", "Refused items, by error code.", ["code"], registry=self.registry)
