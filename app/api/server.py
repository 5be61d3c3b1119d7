"""uvicorn, with bounded connections, and an end that is told to those who wait."""

from __future__ import annotations

import asyncio
import logging
import resource
import socket
import time
from types import FrameType

import uvicorn
from fastapi import FastAPI

from app.api.connections import ConnectionLimits, Connections
from app.api.door import Door
from app.api.protocol import guarded_protocol
from app.settings import Settings
from app.telemetry import Metrics

OTHER_FILES = 256  # that a process has open besides connections
POLL_S = 0.05
CLOSING_S = 2  # for what was cut to say so

log = logging.getLogger(__name__)


class Server(uvicorn.Server):
    """Stops in order: refuses what is new while what is inside finishes, for as long as that may take, and then ends."""

    def __init__(self, config: uvicorn.Config, door: Door, shutdown_s: float) -> None:
        super().__init__(config)
        self._door, self._shutdown_s = door, shutdown_s

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Closes the door at once: `/readyz` and new calls are told from now on."""
        self._door.close()
        super().handle_exit(sig, frame)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Waits for those inside, cuts them off when their time is over, and stops the app."""
        self._door.close()
        log.info("stopping", extra={"inside": self._door.inside, "within_s": self._shutdown_s})
        deadline = time.monotonic() + self._shutdown_s
        # a second Ctrl-C sets `force_exit`, which no event tells
        while self._door.inside and time.monotonic() < deadline and not self.force_exit:  # noqa: ASYNC110
            await asyncio.sleep(POLL_S)
        if self._door.inside:
            log.warning("requests are cut off: they take too long", extra={"inside": self._door.inside})
            self._door.cut()
        await super().shutdown(sockets)


def make_server(app: FastAPI, settings: Settings) -> Server:
    """Returns a server for an app from `create_app`."""
    metrics: Metrics = app.state.metrics
    limits = ConnectionLimits(
        affordable(settings.max_connections), settings.keep_alive_s, settings.header_timeout_s, settings.body_grace_s,
        settings.min_body_bytes_per_s, settings.write_timeout_s,
    )  # fmt: skip
    connections = Connections(limits, lambda code: metrics.rejected.labels(code).inc())
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,
        server_header=False,
        ws="none",
        timeout_keep_alive=settings.keep_alive_s,
        timeout_graceful_shutdown=CLOSING_S,
        http=guarded_protocol(settings.max_header_bytes, connections),
    )
    return Server(config, app.state.door, settings.shutdown_s)


def affordable(wanted: int) -> int:
    """Returns how many connections may be open, and sees to it that the process may open so many files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + OTHER_FILES
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return wanted
    allowed = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    if allowed < needed:
        log.warning(
            f"only {allowed} files may be open (ulimit -n): {max(1, allowed - OTHER_FILES)} connections instead of {wanted}"
        )
    return max(1, min(wanted, allowed - OTHER_FILES))
