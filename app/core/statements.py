"""A statement of feedback: a person says that two are the same product, or that they are not."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from datetime import datetime

from app.core.product import check_id, is_unicode
from app.errors import InvalidInput

MAX_BY_CHARS = 200
MAX_NOTE_CHARS = 1000
SHOWN_CHARS = 80

Key = tuple[str, str, str]  # catalog, "id" or "title", and which one: products come before titles that were asked
Pair = tuple[Key, Key]

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two that are compared.

    Attributes:
        id: of a product; None for a title that was asked and is stored nowhere else.
        title: that was asked, or that the product had when the statement was made (None if it had none).
        photos: SHA-256 digests of the photos that the product had then.
    """

    id: str | None
    title: str | None = None
    photos: tuple[str, ...] = ()

    @property
    def key(self) -> tuple[str, str]:
        """What the side is known by: a product by its id whatever its title, a question by its title."""
        return ("title", self.title or "") if self.id is None else ("id", self.id)

    def __str__(self) -> str:
        kind, name = self.key
        shown = name if len(name) <= SHOWN_CHARS else name[: SHOWN_CHARS - 3] + "..."
        return f"'{shown}'" if kind == "id" else f"the title '{shown}'"


@dataclass(frozen=True, slots=True)
class StatementDraft:
    """A statement to store. A pair has no direction; sides are put in order: products first, then by name.

    Attributes:
        first, second: a product by its id alone, or a title that was asked; at least one is a product.
        same: whether they are the same product.
        by: who says so, 1 to 200 printable characters.
        note: why, at most 1000 characters.
        request_id: of the answer that the statement is about.
    """

    first: Side
    second: Side
    same: bool
    by: str
    note: str | None = None
    request_id: str | None = None

    def __post_init__(self) -> None:
        first, second = sorted((self.first, self.second), key=lambda side: side.key)
        object.__setattr__(self, "first", first)
        object.__setattr__(self, "second", second)
        object.__setattr__(self, "by", _check_by(self.by))
        if any(side.id is None and side.title is None for side in (first, second)):
            raise InvalidInput("a side is neither a product nor a title: give its id, or the title that was asked.")
        if first.id is None:
            raise InvalidInput("both sides are titles: name a product of the catalog by its id on one of them.")
        for side in (first, second):
            if side.id is not None:
                check_id(side.id)
        if first.key == second.key:
            raise InvalidInput("both sides are the same product: name two that differ.")
        if self.note is not None:
            _check_note(self.note)
        if self.request_id is not None and not _REQUEST_ID.fullmatch(self.request_id):
            raise InvalidInput("request_id must be 1 to 64 letters, digits, '.', '_' or '-', as in the header X-Request-ID.")


@dataclass(frozen=True, slots=True)
class Statement:
    """A stored statement: a person says that two are the same product, or that they are not.

    Attributes:
        number: rises with every statement that is stored. It says which is the later one, whatever the clock did.
        catalog: that the products are of.
        first, second: as they were when the statement was made.
        same, by, note, request_id: see `StatementDraft`.
        at: when it was stored, in UTC.
        replaced: when it was read, the person had made another statement about the pair since.
    """

    number: int
    catalog: str
    first: Side
    second: Side
    same: bool
    by: str
    at: datetime
    note: str | None = None
    request_id: str | None = None
    replaced: bool = False

    @property
    def pair(self) -> Pair:
        """The pair, whatever its direction."""
        one, other = sorted((self.first.key, self.second.key))
        return (self.catalog, *one), (self.catalog, *other)


def _check_by(value: str) -> str:
    """Returns who said it in one spelling, since accents can be written in two ways. Raises InvalidInput."""
    by = unicodedata.normalize("NFC", value)
    if not 1 <= len(by) <= MAX_BY_CHARS or not by.isprintable() or by != by.strip():
        raise InvalidInput(
            f"by must say who made the statement: 1 to {MAX_BY_CHARS} printable characters without blanks around them."
        )
    return by


def _check_note(value: str) -> None:
    if len(value) > MAX_NOTE_CHARS:
        raise InvalidInput(f"the note has {len(value):,} characters, at most {MAX_NOTE_CHARS:,} are taken: shorten it.")
    if not value.strip():
        raise InvalidInput("the note is empty: leave the field out, or write some text.")
    if not is_unicode(value) or any(unicodedata.category(one) == "Cc" and one not in "\n\r\t" for one in value):
        raise InvalidInput("the note holds control characters or broken Unicode: send plain UTF-8 text.")
