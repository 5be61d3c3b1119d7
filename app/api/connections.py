"""The open connections of a service, and which of them hold it up.

uvicorn waits for headers and bodies for as long as a client likes, and for clients that do not read what they asked for.
Here all of that has an end, and when there are as many connections as may be, the one that has been without a whole request
for longest makes room: whoever sends a whole request is served, however many only pretend to.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

LOOK_S = 0.5

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """See the settings of these names."""

    connections: int = 1000
    keep_alive_s: float = 5.0
    header_timeout_s: float = 10.0
    body_grace_s: float = 10.0
    min_body_bytes_per_s: int = 1000
    write_timeout_s: float = 30.0


class Connection(Protocol):
    """What is watched."""

    def refuse(self, code: str) -> None:
        """Says why, as far as that is possible, and closes."""

    def too_slow(self, now: float, limits: ConnectionLimits) -> str | None:
        """Returns the code of what takes too long, if anything does; called every `LOOK_S` seconds."""


class Connections:
    """All connections of one server. Use on its event loop."""

    def __init__(self, limits: ConnectionLimits, closed: Callable[[str], None] = lambda code: None) -> None:
        """Begins empty.

        Args:
            limits: what is allowed.
            closed: told the code of every connection that is closed.
        """
        self.limits, self._closed = limits, closed
        self._all: dict[Connection, None] = {}
        self._idle: OrderedDict[Connection, None] = OrderedDict()  # without a whole head, longest first
        self._sending: OrderedDict[Connection, None] = OrderedDict()  # in the middle of a body, longest first
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        """How many there are."""
        return len(self._all)

    def opened(self, connection: Connection) -> None:
        """A new one; if it is one too many, another one is closed, or itself."""
        if len(self._all) >= self.limits.connections:
            victim = next(iter(self._idle), None) or next(iter(self._sending), connection)
            self._close(victim, "too_many_connections")
            if victim is connection:
                return
        self._all[connection] = None
        self._idle[connection] = None
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(LOOK_S, self._look)

    def lost(self, connection: Connection) -> None:
        """One is closed."""
        for some in (self._all, self._idle, self._sending):
            some.pop(connection, None)

    def waits(self, connection: Connection) -> None:
        """It has no request under way."""
        self._sending.pop(connection, None)
        if connection in self._all:
            self._idle[connection] = None

    def sends(self, connection: Connection) -> None:
        """It is in the middle of a body."""
        self._idle.pop(connection, None)
        if connection in self._all:
            self._sending[connection] = None

    def asks(self, connection: Connection) -> None:
        """All of a request has come."""
        self._idle.pop(connection, None)
        self._sending.pop(connection, None)

    def _close(self, connection: Connection, code: str) -> None:
        self.lost(connection)
        self._closed(code)
        connection.refuse(code)

    def _look(self) -> None:
        loop = asyncio.get_running_loop()
        now, closed = loop.time(), Counter[str]()
        for connection in list(self._all):
            code = connection.too_slow(now, self.limits)
            if code is not None:
                closed[code] += 1
                self._close(connection, code)
        if closed:
            log.info("slow connections closed", extra={"codes": dict(closed), "open": len(self._all)})
        self._timer = loop.call_later(LOOK_S, self._look) if self._all else None
