"""Photos that a request names by their addresses, fetched without giving anything of the inside away.

What can be seen in an address is refused with the reason (`image_url_refused`). What depends on a network - a name without
an address or with one that is not public, a closed port, a wrong certificate, a status - is one error with one text
(`image_url_unreachable`): told apart, those would make a scanner of this service. The reasons are in the log.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from app.api.admission import outside
from app.api.http_get import FetchFailed, connect, get, too_large
from app.core.photo_address import Address, FetchRules, PhotoAddress
from app.errors import ImageUrlRefused, ImageUrlUnreachable, Overloaded
from app.settings import Settings

log = logging.getLogger(__name__)

MAX_REDIRECTS = 3
MAX_ADDRESSES = 4  # of a name, that are tried
WAITING_FOR_ONE = 4  # single requests that wait for each that is being served: none waits for minutes

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
Observe = Callable[[float], None]


@dataclass(frozen=True, slots=True)
class FetchLimits:
    """What fetching may cost.

    Attributes:
        photo_bytes: of one photo.
        all_bytes: of all photos of a request or of an item.
        time_s: for all photos of a request or of an item, names and redirects included.
        at_once: requests whose photos are fetched at the same time; items of batches have half as many places of their own.
    """

    photo_bytes: int
    all_bytes: int
    time_s: float
    at_once: int

    @classmethod
    def of(cls, settings: Settings) -> FetchLimits:
        """As the settings say; all photos of a request together have no more bytes than if they were uploaded."""
        return cls(
            settings.max_image_bytes, settings.max_request_bytes, settings.image_url_timeout_s, settings.image_url_fetches
        )


def rules_of(settings: Settings) -> FetchRules:
    """Returns who may be asked, as the settings say."""
    return FetchRules(settings.image_urls, settings.image_url_hosts, settings.image_url_networks, settings.image_url_ports)


class SystemResolver:
    """Looks names up as this machine does, in threads of its own: a silent name server holds up nobody else."""

    def __init__(self, threads: int) -> None:
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="resolve")

    async def __call__(self, name: str, port: int) -> list[str]:
        """Returns the numeric addresses of a name, best first. Raises OSError."""
        loop = asyncio.get_running_loop()
        found = await loop.run_in_executor(
            self._threads, lambda: socket.getaddrinfo(name, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
        )
        return [str(where[0]) for _, _, _, _, where in found]

    def close(self) -> None:
        """Looks up nothing more; waits for no name server."""
        self._threads.shutdown(wait=False, cancel_futures=True)


class Fetcher:
    """Fetches photos. One instance per app, used on its event loop."""

    def __init__(
        self,
        rules: FetchRules,
        limits: FetchLimits,
        resolve: Resolve | None = None,
        tls: ssl.SSLContext | None = None,
        observe: Observe = lambda _: None,
    ) -> None:
        """Takes the rules.

        Args:
            rules: who may be asked.
            limits: what it may cost.
            resolve: how names are looked up; None: as this machine does.
            tls: which certificates count; None: those that this machine trusts.
            observe: told how long each request or item took, in seconds.
        """
        self._rules, self._limits, self._observe = rules, limits, observe
        self._system = SystemResolver(limits.at_once)
        self._resolve = resolve or self._system
        nobody = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # to read what this machine trusts takes 50 ms of every start
        self._tls = tls or (ssl.create_default_context() if rules.enabled else nobody)
        self._single, self._bulk = asyncio.Semaphore(limits.at_once), asyncio.Semaphore(max(1, limits.at_once // 2))
        self._waiting = 0

    @classmethod
    def of(cls, settings: Settings, resolve: Resolve | None = None, observe: Observe = lambda _: None) -> Fetcher:
        """As the settings say."""
        return cls(rules_of(settings), FetchLimits.of(settings), resolve, None, observe)

    def close(self) -> None:
        """Gives back the threads."""
        self._system.close()

    @asynccontextmanager
    async def photos(self, urls: Sequence[str], *, bulk: bool = False) -> AsyncIterator[list[bytes]]:
        """Fetches the photos of a request or of an item, whose place is taken until its caller is done with them.

        So what is held in memory is bounded by places, not by callers.

        Args:
            urls: their addresses; none: nothing is done.
            bulk: for the item of a batch, which waits for as long as it takes.

        Raises:
            ImageUrlRefused: one that must not be fetched; then none is. ImageUrlUnreachable: one that cannot be fetched.
            PayloadTooLarge: too many bytes. Overloaded: too many wait already.
        """
        if not urls:
            yield []
            return
        addresses = [PhotoAddress.read(url, self._rules) for url in urls]
        async with AsyncExitStack() as stack:
            with outside():
                await stack.enter_async_context(self._place(bulk=bulk))
                photos = await self._all(addresses)
            yield photos

    @asynccontextmanager
    async def _place(self, *, bulk: bool) -> AsyncIterator[None]:
        if not bulk and self._waiting >= WAITING_FOR_ONE * self._limits.at_once:
            raise Overloaded(f"{self._waiting} requests wait for photos to be fetched: try again, or upload the photo.", 5)
        places = self._bulk if bulk else self._single
        self._waiting += not bulk
        try:
            await places.acquire()
        finally:
            self._waiting -= not bulk
        try:
            yield
        finally:
            places.release()

    async def _all(self, addresses: Sequence[PhotoAddress]) -> list[bytes]:
        photos: list[bytes] = []
        started, asked = time.perf_counter(), addresses[0]
        try:
            async with asyncio.timeout(self._limits.time_s):
                for asked in addresses:
                    left = self._limits.all_bytes - sum(map(len, photos))
                    photos.append(await self._one(asked, min(left, self._limits.photo_bytes)))
        except (FetchFailed, OSError, ImageUrlRefused) as error:  # OSError: also TimeoutError
            log.info("a photo was not fetched", extra={"host": asked.host, "reason": f"{type(error).__name__}: {error}"})
            raise ImageUrlUnreachable(
                f"no photo could be fetched from '{asked.host}': image_url must lead to a public machine that answers with "
                f"the photo, status 200, within {self._limits.time_s:g} s and {MAX_REDIRECTS} redirects. Or upload it."
            ) from None
        finally:
            self._observe(time.perf_counter() - started)
        return photos

    async def _one(self, address: PhotoAddress, most_bytes: int) -> bytes:
        if most_bytes <= 0:
            raise too_large(self._limits.all_bytes)
        for _ in range(MAX_REDIRECTS + 1):
            reader, writer = await connect(await self._numeric(address), address, self._tls, self._limits.time_s)
            try:
                answer = await get(reader, writer, address, most_bytes)
            finally:
                writer.transport.abort()
            if isinstance(answer, bytes):
                return answer
            address = address.redirected(answer, self._rules)
        raise FetchFailed(f"more than {MAX_REDIRECTS} redirects")

    async def _numeric(self, address: PhotoAddress) -> list[Address]:
        """Looks a name up, this once: whoever answers for it may say something else the next time."""
        try:
            names = [address.name] if address.is_numeric else await self._resolve(address.name, address.port)
            found = [ipaddress.ip_address(one) for one in names]
        except (ValueError, OSError) as error:
            raise FetchFailed(f"the name has no address ({error})") from error
        if not all(self._rules.reaches(address.host, one) for one in found):
            raise FetchFailed("the name has an address that is not public")
        return found[:MAX_ADDRESSES]
