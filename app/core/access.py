"""Who may do what: API keys, their roles, and the catalogs they are for. Knows neither HTTP nor SQL."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Protocol

from app.core.product import check_catalog
from app.errors import InvalidInput

MAX_NAME_CHARS = 200
_KEY = re.compile(r"samesku_([0-9a-f]{12})_[0-9a-f]{64}")


class Role(StrEnum):
    """What a key is for.

    `read` asks, `write` also changes products and feedback, `metrics` sees the metrics and nothing else, `admin` does all.
    """

    READ = "read"
    WRITE = "write"
    METRICS = "metrics"
    ADMIN = "admin"

    def covers(self, needed: Role) -> bool:
        """True if a key of this role may do what takes the role `needed`."""
        return needed in _COVERED[self]


_COVERED = {
    Role.READ: {Role.READ},
    Role.WRITE: {Role.READ, Role.WRITE},
    Role.METRICS: {Role.METRICS},
    Role.ADMIN: set(Role),
}


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sends a request.

    Attributes:
        key: id of the API key, or `anonymous`.
        role: what it may do.
        catalogs: what it may do it with; None for all, also those that do not exist yet.
    """

    key: str
    role: Role
    catalogs: frozenset[str] | None = None

    def sees(self, catalog: str) -> bool:
        """True if a catalog of that name may exist for the caller."""
        return self.catalogs is None or catalog in self.catalogs


ANONYMOUS = Caller("anonymous", Role.ADMIN)


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key as it is stored: everything but the secret.

    Attributes:
        id: the public part of the key, which logs and lists name.
        name: what people call it.
        role, catalogs: as in `Caller`; `admin` and `metrics` are always for all catalogs.
        digest: of the whole key, see `digest_of`.
        created_at, last_used_at, revoked_at: in UTC; None for what has not happened. A use is noted within a minute.
    """

    id: str
    name: str
    role: Role
    catalogs: tuple[str, ...] | None
    digest: str
    created_at: datetime
    last_used_at: datetime | None = None
    revoked_at: datetime | None = None

    def admits(self, text: str) -> bool:
        """True if `text` is this very key and it has not been revoked; takes the same time whatever differs."""
        return hmac.compare_digest(self.digest, digest_of(text)) and self.revoked_at is None

    def caller(self) -> Caller:
        """Returns who sends the requests that carry the key."""
        return Caller(self.id, self.role, None if self.catalogs is None else frozenset(self.catalogs))


class KeyStore(Protocol):
    """Where keys are kept. Calls may come from several threads and processes."""

    def stored(self) -> list[ApiKey]:
        """Returns all keys, oldest first, revoked ones too."""

    def used(self, when: dict[str, datetime]) -> None:
        """Notes when keys were last used, by id."""


def new_key() -> tuple[str, str]:
    """Returns a fresh key and its id. The secret has 256 random bits."""
    key_id = secrets.token_hex(6)
    return f"samesku_{key_id}_{secrets.token_hex(32)}", key_id


def id_of(text: str) -> str | None:
    """Returns the id in a key; None if it does not have the form of one."""
    found = _KEY.fullmatch(text)
    return None if found is None else found[1]


def digest_of(text: str) -> str:
    """Returns what is stored instead of a key: SHA-256, in hexadecimal.

    Slow hashes such as Argon2 make up for secrets that can be guessed. These have 256 random bits, which nobody can try out
    however fast the hash is, and a fast one costs each request a microsecond.
    """
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def check_key(name: str, role: Role, catalogs: Sequence[str] | None) -> None:
    """Checks what a new key is to be.

    Args:
        name: 1 to 200 printable characters.
        role: its role.
        catalogs: their names, one or more; None for all.

    Raises:
        InvalidInput: anything else, or a key for some catalogs whose role is about all of them.
    """
    if not 1 <= len(name) <= MAX_NAME_CHARS or not name.isprintable():
        raise InvalidInput(f"the name of a key must be 1 to {MAX_NAME_CHARS} printable characters.")
    if catalogs is None:
        return
    if role in (Role.ADMIN, Role.METRICS):
        raise InvalidInput(f"a key with the role {role} is for all catalogs: leave the catalogs out.")
    if not catalogs:
        raise InvalidInput("name the catalogs that the key is for, or say that it is for all.")
    for catalog in catalogs:
        check_catalog(catalog)
