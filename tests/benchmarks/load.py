"""The load generator: real photos and titles, N clients, a fixed number of requests. Standard library only.

    python -m tests.benchmarks.load --url http://127.0.0.1:8000 --clients 16 --requests 200

Runs as a process of its own and prints one JSON object. Every request is made ready beforehand, and each client is a
thread that keeps its connection and waits on its socket, so that it takes next to no processor time from the service.
No two requests are alike: a few bytes follow the end of each photo (decoders stop before them), a number follows each
title. So no cache can answer, in whatever service.
"""

from __future__ import annotations

import argparse
import csv
import http.client
import json
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import urlsplit

SAMPLES = Path(__file__).parent.parent.parent / "samples"
TIMEOUT_S = 120.0
BOUNDARY = "samesku-bench-7f3a9c"


@dataclass(frozen=True, slots=True)
class Sample:
    """A query of the samples: photo bytes, title, or both."""

    id: str
    title: str
    photo: bytes


@dataclass(frozen=True, slots=True)
class Target:
    """Where requests go, and what they are made of."""

    host: str
    port: int
    path: str = "/match"
    content_type: str = f"multipart/form-data; boundary={BOUNDARY}"

    @classmethod
    def at(cls, url: str, **options: str) -> Target:
        """Returns a target at the address of a service."""
        where = urlsplit(url)
        return cls(where.hostname or "127.0.0.1", where.port or 80, **options)


@dataclass(frozen=True, slots=True)
class LoadResult:
    """What the load generator saw; see `stats.Measurement` for the words."""

    duration_s: float
    latencies_ms: list[float]
    errors: int
    first_error: str
    client_cpu_share: float


def read_queries(samples: Path = SAMPLES) -> list[Sample]:
    """Reads `queries.csv` and its photos."""
    return [Sample(row["query"], row["title"], _photo(samples, row["image"])) for row in _rows(samples / "queries.csv")]


def read_catalog(samples: Path = SAMPLES) -> list[tuple[str, str, list[bytes]]]:
    """Reads `catalog.csv`: id, title, photos."""
    return [
        (row["id"], row["title"], [_photo(samples, name) for name in row["image"].split("|")])
        for row in _rows(samples / "catalog.csv")
    ]


def read_requests(samples: Path = SAMPLES) -> list[Sample]:
    """Returns what the load is made of: every query, and every catalog product with its last photo."""
    products = [Sample(product, title, photos[-1]) for product, title, photos in read_catalog(samples)]
    return read_queries(samples) + products


def _rows(file: Path) -> list[dict[str, str]]:
    with file.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def _photo(samples: Path, name: str) -> bytes:
    return (samples / name).read_bytes() if name else b""


def bodies(samples: Sequence[Sample], count: int, first: int) -> Iterator[bytes]:
    """Yields `count` multipart bodies, going round the samples; `first` is the number of the first request."""
    for number in range(first, first + count):
        sample = samples[number % len(samples)]
        parts: list[bytes] = []
        if sample.title:
            parts.append(_part('name="title"', f"{sample.title} {number}".encode()))
        if sample.photo:
            header = 'name="image"; filename="photo.jpg"\r\nContent-Type: image/jpeg'
            parts.append(_part(header, sample.photo + number.to_bytes(8, "big")))
        yield b"".join([*parts, f"--{BOUNDARY}--\r\n".encode()])


def _part(header: str, content: bytes) -> bytes:
    return f"--{BOUNDARY}\r\nContent-Disposition: form-data; {header}\r\n\r\n".encode() + content + b"\r\n"


class Queue:
    """Requests that are still to be sent, and what became of the others. Shared by the clients."""

    def __init__(self, requests: list[bytes]) -> None:
        self._left = iter(requests)
        self._lock = threading.Lock()
        self.latencies_ms: list[float] = []
        self.failures: list[str] = []

    def take(self) -> bytes | None:
        with self._lock:
            return next(self._left, None)

    def done(self, latency_ms: float) -> None:
        with self._lock:
            self.latencies_ms.append(round(latency_ms, 2))

    def failed(self, why: str) -> None:
        with self._lock:
            self.failures.append(why)


def _client(target: Target, queue: Queue, start: threading.Barrier) -> None:
    connection = http.client.HTTPConnection(target.host, target.port, timeout=TIMEOUT_S)
    headers = {"Content-Type": target.content_type}
    start.wait()
    while (body := queue.take()) is not None:
        began = time.perf_counter()
        try:
            connection.request("POST", target.path, body, headers)
            answer = connection.getresponse()
            text = answer.read()
            if answer.status == 200:
                queue.done((time.perf_counter() - began) * 1000)
            else:
                queue.failed(f"status {answer.status}: {text[:200].decode('utf-8', 'replace')}")
        except (OSError, http.client.HTTPException) as error:
            queue.failed(f"{type(error).__name__}: {error}")
            connection.close()
    connection.close()


def send(target: Target, clients: int, requests: list[bytes]) -> tuple[Queue, float, float]:
    """Sends all requests; returns the outcome, the seconds it took, and the processor seconds it cost here."""
    queue, start = Queue(requests), threading.Barrier(clients + 1)
    threads = [threading.Thread(target=_client, args=(target, queue, start), daemon=True) for _ in range(clients)]
    for thread in threads:
        thread.start()
    start.wait()
    began, cpu = time.perf_counter(), time.process_time()
    for thread in threads:
        thread.join()
    return queue, time.perf_counter() - began, time.process_time() - cpu


def measure(url: str, clients: int, requests: int, warmup: int, first: int) -> LoadResult:
    """Warms the service up, then measures.

    Args:
        url: of the service.
        clients: how many send at the same time, each waiting for its answer before it sends again.
        requests: how many are measured, over all clients.
        warmup: how many are sent before and not counted (errors are).
        first: number of the first request; runs with other numbers send other bytes.
    """
    target = Target.at(url)
    ready = list(bodies(read_requests(), warmup + requests, first))
    warm, _, _ = send(target, clients, ready[:warmup])
    queue, duration_s, cpu_s = send(target, clients, ready[warmup:])
    failures = warm.failures + queue.failures
    first_error = failures[0] if failures else ""
    return LoadResult(duration_s, queue.latencies_ms, len(failures), first_error, round(cpu_s / duration_s, 4))


def main() -> None:
    """Reads the command line, prints the result."""
    parser = argparse.ArgumentParser(description="Send sample queries to a service and measure.")
    parser.add_argument("--url", required=True)
    parser.add_argument("--clients", type=int, default=1)
    parser.add_argument("--requests", type=int, default=100)
    parser.add_argument("--warmup", type=int, default=10)
    parser.add_argument("--first", type=int, default=0)
    given = parser.parse_args()
    result = measure(given.url, given.clients, given.requests, given.warmup, given.first)
    json.dump(asdict(result), sys.stdout)


if __name__ == "__main__":
    main()
