"""Clients that are slow, or vanish: half an upload, headers in drops, streams that are left or never read.

Each is one connection of an event loop; many of them come from several addresses of this machine: one has too few ports.
"""

from __future__ import annotations

import asyncio
import json
import random
import socket
import struct
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress

HEAD = "POST {} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {}\r\nContent-Length: {}\r\n\r\n"
PER_ADDRESS = 4000
STREAMED = 60

Act = Callable[[asyncio.StreamReader, asyncio.StreamWriter, random.Random, float], Awaitable[None]]  # the last: patience, s


async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, chance: random.Random, hold_s: float) -> None:
    """Connects, and says nothing."""
    await reader.read()


async def dribble_headers(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, chance: random.Random, hold_s: float
) -> None:
    """Sends one letter after the other, and never gets to the end."""
    writer.write(b"GET /catalog HTTP/1.1\r\nX-Some: ")
    while not reader.at_eof():
        writer.write(b"x")
        await writer.drain()
        with suppress(TimeoutError):
            await asyncio.wait_for(reader.read(), chance.uniform(0.2, 1))


async def half_upload(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, chance: random.Random, hold_s: float
) -> None:
    """Announces a photo, sends some of it, and waits."""
    body = b'--x\r\nContent-Disposition: form-data; name="image"; filename="a.jpg"\r\n\r\n' + b"x" * chance.randrange(20_000)
    writer.write(HEAD.format("/match", "multipart/form-data; boundary=x", 100_000).encode() + body)
    await writer.drain()
    await reader.read()


async def vanish_in_upload(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, chance: random.Random, hold_s: float
) -> None:
    """Announces a photo, sends some of it, and resets the connection."""
    writer.write(HEAD.format("/match", "multipart/form-data; boundary=x", 100_000).encode() + b"--x\r\n" + b"x" * 5000)
    await writer.drain()
    await asyncio.sleep(chance.uniform(0, 1))
    _reset(writer)


async def vanish_in_work(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, chance: random.Random, hold_s: float
) -> None:
    """Asks a whole question, and is gone before the answer."""
    body = f"title=gone {chance.random()}".encode()
    writer.write(HEAD.format("/match", "application/x-www-form-urlencoded", len(body)).encode() + body)
    await writer.drain()
    await asyncio.sleep(chance.uniform(0, 0.02))
    _reset(writer)


async def leave_stream(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, chance: random.Random, hold_s: float
) -> None:
    """Sends a batch, reads the first of its answer, and is gone."""
    await _batch(writer, STREAMED)
    await reader.read(chance.randrange(1, 2000))
    _reset(writer)


async def never_read(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, chance: random.Random, hold_s: float
) -> None:
    """Sends a batch, and reads nothing of its answer, for `hold_s` seconds."""
    writer.transport.pause_reading()  # type: ignore[attr-defined]
    await _batch(writer, STREAMED)
    await asyncio.sleep(hold_s)
    _reset(writer)


ACTS: tuple[Act, ...] = (
    silent, dribble_headers, half_upload, vanish_in_upload, vanish_in_work, leave_stream, never_read,
)  # fmt: skip


async def _batch(writer: asyncio.StreamWriter, items: int) -> None:
    body = json.dumps({"items": [{"title": f"swarm {n}"} for n in range(items)]}).encode()
    writer.write(HEAD.format("/match/batch", "application/json", len(body)).encode() + body)
    await writer.drain()


def _reset(writer: asyncio.StreamWriter) -> None:
    known: socket.socket = writer.get_extra_info("socket")
    known.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def run(host: str, port: int, count: int, *, at_once: int, seed: int, hold_s: float) -> Counter[str]:
    """Sends `count` clients, at most `at_once` at a time; returns how often each act was played to its end.

    A client whom the service refuses, closes or resets has played its part, too.
    """
    played: Counter[str] = Counter()
    room = asyncio.Semaphore(at_once)

    async def one(number: int) -> None:
        act, chance = ACTS[number % len(ACTS)], random.Random(seed * 1_000_003 + number)
        address = f"127.0.0.{2 + number // PER_ADDRESS % 50}"
        try:
            reader, writer = await asyncio.open_connection(host, port, local_addr=(address, 0))
            try:
                await act(reader, writer, chance, hold_s)
            finally:
                writer.transport.abort()
        except OSError:
            played["refused or reset"] += 1
        played[act.__name__] += 1

    async def admitted(number: int) -> None:
        try:
            await one(number)
        finally:
            room.release()

    tasks = set()
    for number in range(count):
        await room.acquire()
        task = asyncio.create_task(admitted(number))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    await asyncio.gather(*tasks)
    return played
