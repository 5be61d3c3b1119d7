"""An open-loop client: sends at a given rate whether or not answers come, as strangers do. Prints one JSON object.

    python -m tests.soak.open_loop --url http://127.0.0.1:8000 --rate 100 --seconds 60

Requests are made ready beforehand, arrive at random (Poisson), each on a connection of its own while it lasts (they are
used again), and are timed from the moment they were due, so that a client that falls behind shows as latency. It shares the
machine with the service, so it uses plain protocols on uvloop and parses no more than the status.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections import Counter
from dataclasses import dataclass, field, fields
from typing import cast
from urllib.parse import urlsplit

import numpy as np
import uvloop

from tests.benchmarks.load import BOUNDARY, bodies, read_requests

PATIENCE_S = 30.0
USABLE_S = 2.0  # of a connection after an answer; a service may close one that is idle for longer, at any moment


@dataclass(slots=True)
class Seen:
    """What came of the requests.

    Attributes:
        rate: requests that were due per second.
        seconds: for how long.
        statuses: how many answers of each; 0 where a connection broke, -1 where no answer came in time.
        accepted_ms: of each 200, in the order of sending: when it was due (seconds from the start), and its latency.
        refused_ms: latencies of 429.
        retry_after: how often each `Retry-After` was sent.
        cpu_share: processor time of this client over the clock; 1 is one core.
    """

    rate: float
    seconds: float
    statuses: Counter[int] = field(default_factory=Counter)
    accepted_ms: list[tuple[float, float]] = field(default_factory=list)
    refused_ms: list[float] = field(default_factory=list)
    retry_after: Counter[str] = field(default_factory=Counter)
    cpu_share: float = 0.0


class Line(asyncio.Protocol):
    """A connection that carries one request at a time."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport
        self.answer: asyncio.Future[tuple[int, str]] | None = None
        self.usable = False
        self.idle_since = 0.0
        self._got = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport, self.usable = cast("asyncio.Transport", transport), True  # uvloop's own class

    def ask(self, request: bytes) -> asyncio.Future[tuple[int, str]]:
        """Sends a request; the status, and what `Retry-After` says."""
        self._got = b""
        self.answer = asyncio.get_running_loop().create_future()
        self.transport.write(request)
        return self.answer

    def data_received(self, data: bytes) -> None:
        self._got += data
        head, found, body = self._got.partition(b"\r\n\r\n")
        if not found or self.answer is None:
            return
        lower = head.lower()
        if len(body) < int(_header(lower, b"content-length") or "0"):
            return
        self.usable = b"connection: close" not in lower
        if not self.answer.done():
            self.answer.set_result((int(head[9:12]), _header(lower, b"retry-after")))

    def connection_lost(self, exc: Exception | None) -> None:
        self.usable = False
        if self.answer is not None and not self.answer.done():
            self.answer.set_result((0, ""))


def _header(head: bytes, name: bytes) -> str:
    return head.partition(b"\r\n" + name + b": ")[2].partition(b"\r\n")[0].decode()


class Client:
    """The connections to one service, and what was seen on them."""

    def __init__(self, url: str, seen: Seen) -> None:
        where = urlsplit(url)
        self._host, self._port, self._netloc = where.hostname or "127.0.0.1", where.port or 80, where.netloc
        self._seen, self._free = seen, list[Line]()
        self._began = asyncio.get_running_loop().time()

    def requests(self, count: int, first: int) -> list[bytes]:
        """Makes requests ready."""
        head = f"POST /match HTTP/1.1\r\nHost: {self._netloc}\r\nContent-Type: multipart/form-data; boundary={BOUNDARY}\r\n"
        every = bodies(read_requests(), count, first)
        return [f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body for body in every]

    async def send_all(self, requests: list[bytes], due_s: list[float]) -> None:
        """Sends each when it is due, and waits for the last answer."""
        self._began = asyncio.get_running_loop().time()
        tasks = []
        for request, at in zip(requests, due_s, strict=True):
            if (wait := self._began + at - asyncio.get_running_loop().time()) > 0:
                await asyncio.sleep(wait)
            tasks.append(asyncio.ensure_future(self._send(request, at)))
        await asyncio.gather(*tasks)
        for line in self._free:
            line.transport.abort()

    async def _send(self, request: bytes, at: float) -> None:
        line: Line | None = None
        status, retry_after = 0, ""
        try:
            line = await self._line()
            status, retry_after = await asyncio.wait_for(line.ask(request), PATIENCE_S)
        except TimeoutError:
            status = -1
        except OSError:
            pass
        self._note(status, retry_after, at, (asyncio.get_running_loop().time() - self._began - at) * 1000)
        if line is not None and line.usable and status > 0:
            line.idle_since = asyncio.get_running_loop().time()
            self._free.append(line)
        elif line is not None:
            line.transport.abort()

    async def _line(self) -> Line:
        while self._free:
            line = self._free.pop()
            if line.usable and asyncio.get_running_loop().time() - line.idle_since < USABLE_S:
                return line
            line.transport.abort()
        return (await asyncio.get_running_loop().create_connection(Line, self._host, self._port))[1]

    def _note(self, status: int, retry_after: str, at: float, took_ms: float) -> None:
        self._seen.statuses[status] += 1
        if status == 200:
            self._seen.accepted_ms.append((round(at, 3), round(took_ms, 2)))
        elif status == 429:
            self._seen.refused_ms.append(round(took_ms, 2))
            self._seen.retry_after[retry_after] += 1


async def run(url: str, rate: float, seconds: float, seed: int, first: int) -> Seen:
    """Sends `rate` requests a second for so long, and waits for what is still to come."""
    random = np.random.default_rng(seed)
    due = np.cumsum(random.exponential(1 / rate, int(rate * seconds * 1.5) + 20))
    due_s: list[float] = due[due < seconds].tolist()
    seen = Seen(rate, seconds)
    client = Client(url, seen)
    ready = client.requests(len(due_s), first)
    began, cpu = time.perf_counter(), time.process_time()
    await client.send_all(ready, due_s)
    seen.cpu_share = (time.process_time() - cpu) / (time.perf_counter() - began)
    return seen


def main() -> None:
    """Reads the command line, prints the result."""
    parser = argparse.ArgumentParser(description="Send sample queries at a rate.")
    parser.add_argument("--url", required=True)
    parser.add_argument("--rate", type=float, required=True)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0)
    given = parser.parse_args()
    seen = uvloop.run(run(given.url, given.rate, given.seconds, given.seed, given.first))
    json.dump({one.name: getattr(seen, one.name) for one in fields(seen)}, sys.stdout)


if __name__ == "__main__":
    main()
