"""One GET request to one numeric address: the little of HTTP that a photo needs.

asyncio connects, h11 (the parser that uvicorn brings along) reads. A client library would bring what must not be here and
would have to be kept from doing: looking names up again, proxies and credentials from the environment, cookies,
redirects, unpacking.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Sequence

import h11

from app import __version__
from app.core.photo_address import Address, PhotoAddress
from app.errors import PayloadTooLarge

HEAD_BYTES = 32 * 1024  # of the headers of an answer
PIECE_BYTES = 32 * 1024
FRAME_BYTES = 64 * 1024  # that an answer may have beside the photo, and a sixteenth of the photo: headers, chunks
REDIRECTS = frozenset({301, 302, 303, 307, 308})


class FetchFailed(Exception):
    """No photo came of it; the message is for the log of whoever runs the service, and for nobody else."""


async def connect(
    addresses: Sequence[Address], to: PhotoAddress, tls: ssl.SSLContext, timeout_s: float
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connects to the first of some numeric addresses that answers; with TLS the certificate must be for the name.

    Args:
        addresses: to try.
        to: what is to be asked for; its name and port count, and whether to use TLS.
        tls: which certificates count.
        timeout_s: for all addresses.

    Raises:
        FetchFailed: none does; each has an equal share of the time.
    """
    reason = "no address"
    for address in addresses:
        try:
            async with asyncio.timeout(timeout_s / len(addresses)):
                if to.scheme == "https":
                    return await asyncio.open_connection(str(address), to.port, ssl=tls, server_hostname=to.name)
                return await asyncio.open_connection(str(address), to.port)
        except (OSError, TimeoutError) as error:  # OSError: also what is wrong with TLS
            reason = f"{type(error).__name__}: {error}"
    raise FetchFailed(f"no connection ({reason})")


async def get(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, address: PhotoAddress, most_bytes: int
) -> bytes | str:
    """Asks for a photo over a connection that is used for nothing else.

    Args:
        reader: of the connection.
        writer: of the connection.
        address: what to ask for.
        most_bytes: that the photo may have.

    Returns:
        The photo's bytes, or the address that a redirect names.

    Raises:
        FetchFailed: any other answer, one that is packed, cut off, or no HTTP. PayloadTooLarge: too many bytes.
    """
    exchange = _Exchange(reader)
    try:
        writer.write(exchange.request(address))
        await writer.drain()
        head = await exchange.next()
        while isinstance(head, h11.InformationalResponse):
            head = await exchange.next()
        if not isinstance(head, h11.Response):
            raise FetchFailed("no answer")
        headers = {name: value for name, value in head.headers}  # noqa: C416 - h11's headers are no pairs to dict()
        if head.status_code in REDIRECTS and b"location" in headers:
            return headers[b"location"].decode("latin-1")
        if head.status_code != 200:
            raise FetchFailed(f"status {head.status_code}")
        if headers.get(b"content-encoding", b"identity").lower() != b"identity":
            raise FetchFailed("a packed answer, although none was asked for")
        if int(headers.get(b"content-length", b"0")) > most_bytes:
            raise too_large(most_bytes)
        return await exchange.body(most_bytes)
    except (h11.ProtocolError, OSError) as error:
        raise FetchFailed(f"{type(error).__name__}: {error}") from error


def too_large(most_bytes: int) -> PayloadTooLarge:
    """Returns the error for photos of too many bytes."""
    return PayloadTooLarge(f"what image_url names has more than {most_bytes:,} bytes: scale it down.")


class _Exchange:
    """One request and its answer."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self._reader, self._received, self._photo = reader, 0, bytearray()
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=HEAD_BYTES)

    def request(self, address: PhotoAddress) -> bytes:
        """Returns the bytes of the request."""
        headers = [
            ("Host", address.authority),
            ("User-Agent", f"samesku/{__version__}"),
            ("Accept", "image/*"),
            ("Accept-Encoding", "identity"),
            ("Connection", "close"),
        ]
        head = self._http.send(h11.Request(method="GET", target=address.target, headers=headers))
        return (head or b"") + (self._http.send(h11.EndOfMessage()) or b"")

    async def next(self) -> h11.Event | None:
        """Returns the next piece of the answer, reading on as far as it takes; None if none will come.

        Chunks of single bytes and answers ahead of the answer, which cost much more to read than to send, end it early.
        """
        while True:
            event = self._http.next_event()
            if isinstance(event, h11.Event):
                return event
            if event is h11.PAUSED:
                return None
            data = await self._reader.read(PIECE_BYTES)
            self._received += len(data)
            if self._received - len(self._photo) > FRAME_BYTES + PIECE_BYTES + len(self._photo) // 16:
                raise FetchFailed("more around the photo than photo")
            self._http.receive_data(data)

    async def body(self, most_bytes: int) -> bytes:
        """Returns the body."""
        while isinstance(event := await self.next(), h11.Data):
            self._photo += event.data
            if len(self._photo) > most_bytes:
                raise too_large(most_bytes)
        if not isinstance(event, h11.EndOfMessage):
            raise FetchFailed("an answer that is cut off")
        return bytes(self._photo)
