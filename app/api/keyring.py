"""Which key a request carries, from a copy of the stored keys that is renewed every second or so."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime

from app.core.access import ANONYMOUS, ApiKey, Caller, KeyStore, digest_of, id_of
from app.errors import NotReady, Unauthenticated

STALE_S = 30.0
NOTE_USES_S = 30.0

log = logging.getLogger(__name__)

HOW = "send the header 'Authorization: Bearer KEY' or 'X-API-Key: KEY'."


class Keyring:
    """Answers who calls. Use on one event loop.

    Without any stored key, revoked ones included, everybody is `ANONYMOUS`, if that is allowed; the first key ends it.
    """

    def __init__(
        self, store: KeyStore, fresh_s: float, *, anonymous: bool, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Takes the store as it is.

        Args:
            store: where the keys are.
            fresh_s: how old the copy may be.
            anonymous: whether everybody may call as long as there is no key.
            clock: seconds, from any start.
        """
        self._store, self._fresh_s, self._anonymous, self._clock = store, fresh_s, anonymous, clock
        self._keys: dict[str, ApiKey] | None = None
        self._read_at = self._tried_at = -math.inf
        self._reading = asyncio.Lock()
        self._uses: dict[str, datetime] = {}

    async def caller(self, sent: Sequence[str]) -> Caller:
        """Returns who sends a request with these keys.

        Raises:
            Unauthenticated: no key, several, or one that is unknown or revoked.
            NotReady: the stored keys cannot be read.
        """
        keys = await self._current()
        if not keys and self._anonymous:
            return ANONYMOUS
        if not sent:
            raise Unauthenticated(f"this call needs an API key: {HOW}")
        if len(set(sent)) > 1:
            raise Unauthenticated(f"there are several API keys in this request: {HOW}")
        key = keys.get(id_of(sent[0]) or "", NOBODY)
        if not key.admits(sent[0]):
            raise Unauthenticated("the API key is unknown or was revoked: ask whoever runs the service for another one.")
        self._uses[key.id] = datetime.now(UTC)
        return key.caller()

    async def _current(self) -> Mapping[str, ApiKey]:
        if self._clock() - self._tried_at >= self._fresh_s:
            async with self._reading:
                if self._clock() - self._tried_at >= self._fresh_s:  # else somebody else has just read them
                    await self._read()
        if self._keys is None or self._clock() - self._read_at > STALE_S:
            raise NotReady("the API keys cannot be read: see the log of the service.")
        return self._keys

    async def _read(self) -> None:
        started = self._clock()
        try:
            found = {key.id: key for key in await asyncio.to_thread(self._store.stored)}
        except Exception:
            log.exception("the API keys cannot be read", extra={"refused_after_s": STALE_S})
        else:
            self._tell(found)
            self._keys, self._read_at = found, started
        self._tried_at = started

    def _tell(self, found: Mapping[str, ApiKey]) -> None:
        """Logs what has changed since the copy before."""
        if self._keys is None:
            return
        for key in found.values():
            before = self._keys.get(key.id)
            if before is None:
                log.info("API key created", extra={"key": key.id, "role": key.role.value, "catalogs": key.catalogs})
            elif before.revoked_at is None and key.revoked_at is not None:
                log.info("API key revoked", extra={"key": key.id})

    # -- last uses ---------------------------------------------------------------------------------------------

    async def note_uses(self) -> None:
        """Writes down when keys were last used. What cannot be written is tried again the next time."""
        uses, self._uses = self._uses, {}
        if not uses:
            return
        try:
            await asyncio.to_thread(self._store.used, uses)
        except Exception:
            log.exception("the last uses of API keys cannot be written")
            self._uses = uses | self._uses

    async def keep_noting(self) -> None:
        """Does so forever."""
        while True:
            await asyncio.sleep(NOTE_USES_S)
            await self.note_uses()


def _nobody() -> ApiKey:
    """Returns a key that admits no text, for an unknown id to take as long as a known one."""
    epoch = datetime.fromtimestamp(0, UTC)
    return ApiKey("", "", ANONYMOUS.role, None, digest_of(""), epoch, revoked_at=epoch)


NOBODY = _nobody()
