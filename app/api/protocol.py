"""HTTP/1.1 with a bound on headers. uvicorn's faster parser has none: it would collect whatever is sent."""

from __future__ import annotations

import json

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from app.api.errors import HEADERS_TOO_LARGE, MEDIA_TYPE, problem


def bounded_protocol(max_header_bytes: int) -> type[HttpToolsProtocol]:
    """Returns a protocol for uvicorn that closes connections which send more than that without a request coming of it.

    What comes in one piece (256 KiB at most) is parsed first; `app.api.middleware.HeaderLimit` refuses the request then.
    """

    class BoundedProtocol(HttpToolsProtocol):
        """Counts the bytes that were neither a body nor the end of anything: headers, trailers, extensions of chunks."""

        _pending = 0

        def data_received(self, data: bytes) -> None:
            self._pending += len(data)
            super().data_received(data)
            if self._pending > max_header_bytes and not self.transport.is_closing():
                body = json.dumps(problem(431, *HEADERS_TOO_LARGE)).encode()
                head = f"content-type: {MEDIA_TYPE}\r\ncontent-length: {len(body)}\r\nconnection: close"
                self.transport.write(f"HTTP/1.1 431 Request Header Fields Too Large\r\n{head}\r\n\r\n".encode() + body)
                self.transport.close()

        def on_headers_complete(self) -> None:
            self._pending = 0
            super().on_headers_complete()

        def on_body(self, body: bytes) -> None:
            self._pending = 0
            super().on_body(body)

        def on_message_complete(self) -> None:
            self._pending = 0
            super().on_message_complete()

    return BoundedProtocol
