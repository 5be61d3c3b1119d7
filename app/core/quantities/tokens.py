"""Titles as tokens: numbers, runs of letters, single signs."""

from __future__ import annotations

import re
from typing import NamedTuple

_TOKEN = re.compile(r"[0-9]+(?:[.,][0-9]+)*|[^\W0-9_]+|[^\w\s]|_")
_SIGNS = str.maketrans({**dict.fromkeys("’‘′´`", "'"), **dict.fromkeys("“”″„", '"'), "×": "x", "✕": "x", "⁄": "/"})
_SIGNS.update(str.maketrans(dict.fromkeys("–—‑‐~−", "-")))

LARGE = frozenset(("kg", "l", "m", "lb", "oz", "inch", "TB", "GHz", "fl oz", "gal", "ft", "Ah", "kW", "cm", "MP", "'"))
MAX_DIGITS = 12


class Token(NamedTuple):
    """A token, where it starts and ends, and whether it touches the one before."""

    text: str
    start: int
    end: int
    glued: bool

    @property
    def is_number(self) -> bool:
        """Whether it is a number."""
        return "0" <= self.text[0] <= "9"


NOTHING = Token(" ", -1, -1, False)


def plain(title: str) -> str:
    """Returns the title in lower case with one sign for each of quotes, dashes and times."""
    return title.lower().translate(_SIGNS)


def tokenise(text: str) -> list[Token]:
    """Splits a `plain` title."""
    tokens, last = [], -1
    make = Token._make  # half the time of calling the class
    for found in _TOKEN.finditer(text):
        start, end = found.span()
        tokens.append(make((found.group(), start, end, start == last)))
        last = end
    return tokens


def number(text: str, unit: str = "") -> float | None:
    """Returns the number that a token writes, or None for versions, codes and what is too long.

    A point or a comma before exactly three digits groups thousands ("1.000 ml", "1,000 ml"), but for a unit in which
    nobody sells thousands ("1.500 kg" is one and a half) or after a zero.
    """
    if len(text) > MAX_DIGITS or (text[0] == "0" and text.isdigit() and len(text) > 1):  # 001 counts nothing
        return None
    if text.isdigit():
        return float(text)
    points, commas = text.count("."), text.count(",")
    if points and commas:
        decimal = "." if text.rfind(".") > text.rfind(",") else ","
        if text.count(decimal) > 1:
            return None
        return float(text.replace("," if decimal == "." else ".", "").replace(",", "."))
    whole, *parts = text.replace(",", ".").split(".")
    grouped = all(len(part) == 3 for part in parts) and whole != "0" and len(whole) <= 3
    if grouped and (len(parts) > 1 or unit not in LARGE):
        return float(whole + "".join(parts))
    return float(f"{whole}.{parts[0]}") if len(parts) == 1 else None
