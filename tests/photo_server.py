"""Machines that photos are fetched from: real sockets that answer as a test says, and names that lead to them."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

Answer = bytes | Callable[[socket.socket], None]
LOOPBACK = "127.0.0.1"
PIECE = b"x" * 16_384


def answer(body: bytes, status: str = "200 OK", **headers: str) -> bytes:
    """An HTTP answer; `content_length` and others as they are given, with dashes for underscores."""
    head = {"content_length": str(len(body)), "content_type": "image/png"} | headers
    lines = [f"HTTP/1.1 {status}", *(f"{name.replace('_', '-')}: {value}" for name, value in head.items()), "", ""]
    return "\r\n".join(lines).encode() + body


def redirect(location: str, status: str = "302 Found") -> bytes:
    return answer(b"", status, location=location)


def endless(head: bytes, piece: bytes = PIECE) -> Callable[[socket.socket], None]:
    """An answer that goes on for as long as somebody listens."""

    def pour(connection: socket.socket) -> None:
        connection.sendall(head)
        while True:
            connection.sendall(piece)

    return pour


def path_of(request: bytes) -> str:
    return request.split(b" ")[1].decode()


class PhotoServer:
    """Answers requests by their path (with query), and keeps what it was sent."""

    def __init__(self, answers: Mapping[str, Answer], tls: ssl.SSLContext | None = None) -> None:
        self.answers, self.requests = dict(answers), list[bytes]()
        self.serving = self.most_at_once = 0
        self._tls, self._counting = tls, threading.Lock()
        self._listening = socket.create_server((LOOPBACK, 0))
        self._open = set[socket.socket]()
        self.port: int = self._listening.getsockname()[1]
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    @property
    def paths(self) -> list[str]:
        return [path_of(request) for request in self.requests]

    def close(self) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        for connection in list(self._open):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            self._threads = [thread for thread in self._threads if thread.is_alive()]
            self._threads.append(threading.Thread(target=self._serve, args=(connection,)))
            self._threads[-1].start()

    def _serve(self, connection: socket.socket) -> None:
        self._open.add(connection)
        try:
            with suppress(OSError), connection if self._tls is None else self._tls.wrap_socket(connection, True) as line:
                self._answer(line)
        finally:
            self._open.discard(connection)
            connection.close()

    def _answer(self, line: socket.socket) -> None:
        request = b""
        while b"\r\n\r\n" not in request:
            request += (got := line.recv(65536))
            if not got:
                return
        with self._counting:
            self.requests.append(request)
            self.serving += 1
            self.most_at_once = max(self.most_at_once, self.serving)
        try:
            made = self.answers.get(path_of(request), answer(b"", "404 Not Found"))
            line.sendall(made) if isinstance(made, bytes) else made(line)
        finally:
            with self._counting:
                self.serving -= 1


@contextmanager
def photo_server(answers: Mapping[str, Answer], tls: ssl.SSLContext | None = None) -> Iterator[PhotoServer]:
    """Runs a server on a port of this machine."""
    server = PhotoServer(answers, tls)
    try:
        yield server
    finally:
        server.close()


def may_fetch(server: PhotoServer, *hosts: str) -> dict[str, Any]:
    """Settings of an app that may fetch photos from a server, under some names."""
    private = {"image_url_hosts": hosts, "image_url_networks": ("127.0.0.0/8",), "image_url_ports": (80, server.port)}
    return {"image_urls": True} | private


class Names:
    """Who has which numeric address; keeps what it was asked. A list of lists gives another answer every time."""

    def __init__(self, known: Mapping[str, Sequence[str] | Sequence[Sequence[str]]]) -> None:
        self.known, self.asked = dict(known), list[str]()

    async def __call__(self, name: str, port: int) -> Sequence[str]:
        self.asked.append(name)
        found = self.known.get(name)
        if found is None:
            raise socket.gaierror(-2, "Name or service not known")
        if found and not isinstance(found[0], str):
            return found[min(self.asked.count(name), len(found)) - 1]
        return found  # type: ignore[return-value]
