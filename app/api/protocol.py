"""HTTP/1.1 for uvicorn, with bounds that its faster parser lacks: on headers, on pipelines, and on time."""

from __future__ import annotations

import asyncio
import json
from enum import Enum

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from app.api.connections import LOOK_S, ConnectionLimits, Connections
from app.api.errors import HEADERS_TOO_LARGE, MEDIA_TYPE, problem

MOST_PIPELINED = 16  # requests that may wait behind another one on a connection

_REFUSALS = {
    HEADERS_TOO_LARGE[0]: (431, "Request Header Fields Too Large", HEADERS_TOO_LARGE[1]),
    "slow_headers": (408, "Request Timeout", "the headers took too long: send them at once."),
    "slow_body": (408, "Request Timeout", "the body came too slowly: send it faster, or send less."),
    "too_many_connections": (503, "Service Unavailable", "there are too many connections: try again in a moment."),
}


class _Stage(Enum):
    """What a connection is at."""

    IDLE = "after an answer, before the next request"
    HEAD = "in the middle of headers, or new"
    BODY = "in the middle of a body, answered already or not"
    ASKED = "all of a request has come"


class GuardedProtocol(HttpToolsProtocol):
    """Closes connections which send, or take, too much or too slowly.

    What comes in one piece (256 KiB at most) is parsed first; `app.api.middleware.HeaderLimit` refuses the request then.
    """

    max_header_bytes: int
    others: Connections

    _pending = 0  # bytes that were neither a body nor the end of anything: headers, trailers, extensions of chunks
    _stage = _Stage.HEAD
    _since = 0.0  # when the stage began
    _body_bytes = 0
    _stalled: tuple[float, int] | None = None  # since when the client reads too little, and what it had to read then

    # -- what uvicorn and the parser call ------------------------------------------------------------------

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has come, and owes a head."""
        super().connection_made(transport)
        self._enter(_Stage.HEAD)
        self.others.opened(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """The client has gone."""
        self.others.lost(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Feeds the parser, and closes if it makes nothing of what comes."""
        if self.transport.is_closing():
            return
        if self._stage is _Stage.IDLE:
            self._enter(_Stage.HEAD)
        self._pending += len(data)
        super().data_received(data)
        if self._pending > self.max_header_bytes and not self.transport.is_closing():
            self.refuse(HEADERS_TOO_LARGE[0])

    def on_headers_complete(self) -> None:
        """The client owes a body."""
        self._pending = 0
        if len(self.pipeline) >= MOST_PIPELINED:
            raise RuntimeError("too many requests at once on one connection")  # the parser makes a 400 of it
        self._enter(_Stage.BODY)
        self.others.sends(self)
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """A piece of it has come."""
        self._pending = 0
        self._body_bytes += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """It is our turn."""
        self._pending = 0
        self._enter(_Stage.ASKED)
        self.others.asks(self)
        super().on_message_complete()
        if self.cycle is None or self.cycle.response_complete:  # answered before all of it had come
            self._wait()

    def on_response_complete(self) -> None:
        """The client may ask again."""
        last = not self.pipeline  # of those that have come; the next one begins now
        super().on_response_complete()
        if self._stage is _Stage.ASKED and last:
            self._wait()

    def pause_writing(self) -> None:
        """The client takes nothing."""
        self._stalled = self.loop.time(), self.transport.get_write_buffer_size()
        super().pause_writing()

    def resume_writing(self) -> None:
        """It takes something."""
        self._stalled = None
        super().resume_writing()

    # -- what `Connections` calls --------------------------------------------------------------------------

    def too_slow(self, now: float, limits: ConnectionLimits) -> str | None:
        """See `Connection`."""
        if self._reads_too_slowly(now, limits):
            return "slow_reader"
        if self._stage is _Stage.IDLE and now - self._since > limits.keep_alive_s + LOOK_S:
            return "idle"  # uvicorn forgets those whose body came after the answer
        if self._stage is _Stage.HEAD and now - self._since > limits.header_timeout_s:
            return "slow_headers"
        if self._stage is _Stage.BODY:
            if self.flow.read_paused:  # it is we who do not read
                self._since += LOOK_S
            elif now - self._since > limits.body_grace_s + self._body_bytes / limits.min_body_bytes_per_s:
                return "slow_body"
        return None

    def _reads_too_slowly(self, now: float, limits: ConnectionLimits) -> bool:
        if self._stalled is None or now - self._stalled[0] <= limits.write_timeout_s:
            return False
        left = self.transport.get_write_buffer_size()
        if self._stalled[1] - left < limits.write_timeout_s * limits.min_body_bytes_per_s:
            return True
        self._stalled = now, left
        return False

    def refuse(self, code: str) -> None:
        """See `Connection`."""
        answering = self.cycle is not None and self.cycle.response_started and not self.cycle.response_complete
        if answering or code == "slow_reader":  # what is still to be sent would never go out
            self.transport.abort()
            return
        if (
            code in _REFUSALS and self._stage is not _Stage.IDLE
        ):  # nobody asked: the next request would take it for its answer
            status, phrase, detail = _REFUSALS[code]
            body = json.dumps(problem(status, code, detail)).encode()
            head = f"content-type: {MEDIA_TYPE}\r\ncontent-length: {len(body)}\r\nconnection: close"
            self.transport.write(f"HTTP/1.1 {status} {phrase}\r\n{head}\r\n\r\n".encode() + body)
        self.transport.close()

    def _enter(self, stage: _Stage) -> None:
        self._stage, self._since, self._body_bytes = stage, self.loop.time(), 0

    def _wait(self) -> None:
        self._enter(_Stage.IDLE)
        self.others.waits(self)


def guarded_protocol(most_header_bytes: int, connections: Connections) -> type[HttpToolsProtocol]:
    """Returns the protocol of one server."""

    class Bound(GuardedProtocol):
        max_header_bytes = most_header_bytes
        others = connections

    return Bound
