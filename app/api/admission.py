"""One call through the door: refused before its body is read, or let in until it is answered.

Or until its caller has gone or its time is over. FastAPI lets a route run to its end whoever listens. Here whatever a call
still waits for is cancelled: photos that wait to be decoded, and items that wait for the towers or the index, are dropped
there. What has begun in a thread is finished, and so is what changes the catalog (`Service.lasting`).
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api.door import Door
from app.api.errors import headers_of, problem_of, problem_response
from app.errors import AppError, DeadlineExceeded, InvalidInput, NotReady, Overloaded
from app.telemetry import Metrics

ALWAYS = frozenset({"/healthz", "/readyz", "/metrics"})  # to be asked at any time, and cheap
MAX_TIMEOUT_MS = 24 * 3600 * 1000

_WORK = frozenset({"/match", "/compare", "/catalog"})  # POST: through towers or index, one by one
_BATCHES = frozenset({"/match/batch", "/catalog/batch"})
_HEADERS = frozenset({b"x-request-timeout-ms", b"content-length", b"transfer-encoding"})
_MATCHES = re.compile(r"/catalog/.+/matches")


class Admission:
    """ASGI middleware: see the module."""

    def __init__(self, app: ASGIApp, door: Door, metrics: Metrics, timeout_s: float) -> None:
        """Wraps an app.

        Args:
            app: what is inside.
            door: what all calls share.
            metrics: where refusals are counted.
            timeout_s: that a call may take, unless it names less; batches have no limit but what they name.
        """
        self._app, self._door, self._metrics, self._timeout_s = app, door, metrics, timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See the class."""
        if scope["type"] != "http" or scope["path"] in ALWAYS:
            await self._app(scope, receive, send)
            return
        call = Call(self._door, scope, receive, send)
        try:
            call.enter(self._timeout_s)
            await call.run(self._app)
        except AppError as error:
            self._metrics.rejected.labels(error.code).inc()
            headers = headers_of(error)
            if self._door.closing:
                headers["Connection"] = "close"
            await problem_response(problem_of(error), headers)(scope, receive, send)
        finally:
            call.leave()


class Call:
    """One call: what it holds of the house, and why it may end before it is answered."""

    def __init__(self, door: Door, scope: Scope, receive: Receive, send: Send) -> None:
        self._door, self._scope, self._receive, self._send = door, scope, receive, send
        method, path = scope["method"], scope["path"]
        self._works = (method == "POST" and path in _WORK) or (method == "GET" and bool(_MATCHES.fullmatch(path)))
        self._batch = method == "POST" and path in _BATCHES
        headers = {name: value for name, value in scope["headers"] if name in _HEADERS}
        self._named_timeout = headers.get(b"x-request-timeout-ms")
        self._bodiless = headers.get(b"content-length", b"0") == b"0" and b"transfer-encoding" not in headers
        self._whole = False  # all of it has come
        self._body_bytes = self._status = 0
        self._place_since: float | None = None
        self._holds_batch = self._answered = False
        self._task = asyncio.current_task()
        self._ended: AppError | None = None
        self._gone = asyncio.Event()
        self._watcher: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None

    # -- what it holds -----------------------------------------------------------------------------------------

    def enter(self, timeout_s: float) -> None:
        """Looks whether there is room for the call.

        Raises:
            InvalidInput: a timeout that is none. ShuttingDown: the door is closed. Overloaded: there is no room.
        """
        named = _seconds(self._named_timeout)
        self._timeout_s = named or 0.0 if self._batch else min(timeout_s, named or timeout_s)
        self._door.enter(self)
        if self._batch:  # taken, like a place, when there is something to work on: an upload may be slow
            self._door.check_batch()
        if self._works:
            self._door.places.check()

    def leave(self) -> None:
        """Gives everything back."""
        if self._place_since is not None:
            self._door.places.leave(self._place_since, served=200 <= self._status < 300 and self._ended is None)
        if self._holds_batch:
            self._door.give_back_batch()
        self._door.body_bytes -= self._body_bytes
        self._door.leave(self)

    def _begin(self) -> None:
        """All of the call has come. Raises Overloaded if others have taken the last place meanwhile."""
        self._whole = True
        loop = asyncio.get_running_loop()
        if self._works:
            self._place_since = self._door.places.take()
        if self._batch:
            self._door.take_batch()
            self._holds_batch = True
        if self._timeout_s and self._batch:  # a batch ends with a line of its own
            self._scope.setdefault("state", {})["deadline"] = loop.time() + self._timeout_s
        elif self._timeout_s:
            self._timer = loop.call_later(self._timeout_s, self.end, _too_late(self._timeout_s))
        self._watcher = asyncio.create_task(self._watch())

    @contextmanager
    def outside(self) -> Iterator[None]:
        """See the function `outside`."""
        held, self._place_since = self._place_since, None
        if held is not None:
            self._door.places.leave(held, served=False)
        yield
        if held is not None:
            self._place_since = self._door.places.take()

    # -- how it ends -------------------------------------------------------------------------------------------

    async def run(self, app: ASGIApp) -> None:
        """Runs the app until it has answered, or there is a reason to end; raises that, unless an answer has begun."""
        _current.set(self)
        try:
            if self._bodiless:
                self._begin()
            await app(self._scope, self._receive_once, self._send_known)
        except asyncio.CancelledError:
            if self._ended is None or self._task is None or self._task.uncancel() > 0:
                raise
        finally:
            self._answered = True
            if self._timer is not None:
                self._timer.cancel()
            if self._watcher is not None:
                self._watcher.cancel()
        if self._ended is not None and not self._status and not self._gone.is_set():
            raise self._ended

    def end(self, reason: AppError) -> None:
        """Cancels what the app still waits for."""
        if not self._answered and self._ended is None and self._task is not None:
            self._ended = reason
            self._task.cancel()

    def _leave_alone(self) -> None:
        """The caller has gone."""
        self._gone.set()
        self.end(NotReady("the caller has gone."))

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._leave_alone()

    # -- what goes in and out ----------------------------------------------------------------------------------

    async def _receive_once(self) -> Message:
        if self._bodiless:
            self._bodiless = False
            return {"type": "http.request", "body": b"", "more_body": False}
        if self._whole:  # the watcher listens
            await self._gone.wait()
            return {"type": "http.disconnect"}
        message = await self._receive()
        if message["type"] == "http.disconnect":
            self._leave_alone()
        else:
            try:
                self._read(message)
            except Overloaded as error:  # FastAPI lets no other exception through while it reads a form
                raise HTTPException(429, str(error), headers_of(error)) from None
        return message

    def _read(self, message: Message) -> None:
        size = len(message.get("body", b""))
        self._door.carry(size)
        self._body_bytes += size
        if not message.get("more_body", False):
            self._begin()

    async def _send_known(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._status = message["status"]
            if self._door.closing:
                message["headers"] = [*message["headers"], (b"connection", b"close")]
        elif not message.get("more_body", False):
            self._answered = True
        await self._send(message)


_current: ContextVar[Call | None] = ContextVar("call", default=None)


def outside() -> AbstractContextManager[None]:
    """While something outside of the house is waited for, the call that does so holds no place for work.

    Raises:
        Overloaded: at the end, if others have taken the last place meanwhile.
    """
    call = _current.get()
    return nullcontext() if call is None else call.outside()


def _seconds(sent: bytes | None) -> float | None:
    if sent is None:
        return None
    if not re.fullmatch(rb"[0-9]{1,8}", sent) or not 0 < int(sent) <= MAX_TIMEOUT_MS:
        raise InvalidInput(f"X-Request-Timeout-Ms must be whole milliseconds from 1 to {MAX_TIMEOUT_MS}.")
    return int(sent) / 1000


def _too_late(after_s: float) -> DeadlineExceeded:
    return DeadlineExceeded(
        f"this was not answered within {after_s:g} s: allow more time, or try again when there is less to do. "
        "A change may have been made nevertheless; sending it again does no harm."
    )
