"""The unit after a number: words, letters that are units only in some places, signs."""

from __future__ import annotations

import re
from collections.abc import Set

from app.core.quantities.tokens import NOTHING, Token, number
from app.core.quantities.words import (
    BABIES,
    COMPUTING,
    FOOT_MARK,
    GOLDEN,
    LENSES,
    LETTER_UNITS,
    NETWORKS,
    PAIRS,
    RATE,
    TIMES,
    UNITS,
    ZOOMS,
    Unit,
)

# the next word stuck to the unit, as in "85MLready", and scripts that write words without spaces
_STUCK = re.compile(
    "(?:ml|gram|gr|kg|cm|pcs|gb|mah)(?=[a-z]{4})|毫升|毫米|厘米|公斤|千克|グラム|リットル|キロ|センチ|[克升片枚個个本]"
)
_MEMORY_SIZES = frozenset(("8", "16", "32", "64", "128", "256", "512"))
_KARATS = frozenset(("9", "10", "14", "18", "22", "24"))
_MAX_INCHES_BY_QUOTE = 150
_MAX_TOKENS = 400  # so far into a title quotes are not counted: it takes the longer the more there are


def at(tokens: list[Token], position: int) -> Token:
    """Returns a token, or one that is nothing beyond the ends."""
    return tokens[position] if 0 <= position < len(tokens) else NOTHING


def unit_after(tokens: list[Token], position: int, words: Set[str]) -> tuple[Unit | None, int]:
    """Reads the unit that stands at a position, just after a number; returns it and the position after it."""
    token = at(tokens, position)
    if token.text == "-" and token.glued and at(tokens, position + 1).glued and len(at(tokens, position + 1).text) > 1:
        unit, after = unit_after(tokens, position + 1, words)
        return (unit, after) if unit else (None, position)
    if not token.text[0].isalpha():
        return _sign(tokens, position)
    if token.text in PAIRS:
        second = position + 1 + (at(tokens, position + 1).text in ".-")
        pair = PAIRS[token.text].get(at(tokens, second).text)
        if pair:
            return pair, second + 1
    further = at(tokens, position + 1)
    if token.text == "x" and (further.text in ZOOMS or (token.glued and not further.glued)):
        return TIMES, position + 1
    unit = UNITS.get(token.text)
    if unit is None or (len(token.text) == 1 and not _stands(tokens, position, words)):
        return _special(tokens, position, words)
    if further.glued and further.is_number:
        return None, position
    if unit.kind == "storage" and at(tokens, position + 1).text == "/" and at(tokens, position + 2).text in ("s", "sec"):
        return RATE, position + 3
    return unit, position + 1


def _stands(tokens: list[Token], position: int, words: Set[str]) -> bool:
    """Whether a single letter after a number is a unit, and not a part of a code or the name of a network."""
    token, after = tokens[position], at(tokens, position + 1)
    if token.text not in LETTER_UNITS or (after.glued and after.text in "'+"):
        return False
    ahead = tokens[position - 2] if position > 1 else NOTHING
    if ahead.text == "f" or (ahead.text == "/" and at(tokens, position - 3).text == "f"):  # f/4L, f2.8G
        return False
    if after.text in "-/." and after.glued and at(tokens, position + 2).glued and token.glued:
        further = at(tokens, position + 2)
        if further.is_number and after.text != "/":
            return False
    if token.text == "g" and len(tokens[position - 1].text) == 1:
        return NETWORKS.isdisjoint(words) and COMPUTING.isdisjoint(words)
    if token.text == "m" and _of_babies(tokens, position, words):
        return False
    if token.text in "gm":
        return COMPUTING.isdisjoint(words)
    return token.text != "l" or LENSES.isdisjoint(words)


def _special(tokens: list[Token], position: int, words: Set[str]) -> tuple[Unit | None, int]:
    """Reads what is a unit only here: "13.3in", "50s", "24k gold", "6er", "0-3m" of babies."""
    token, after, before = tokens[position], at(tokens, position + 1), tokens[position - 1].text
    if token.text == "m" and after.text == "+" and after.glued:
        return UNITS["bulan"], position + 2
    if token.text == "m" and _of_babies(tokens, position, words):
        return UNITS["bulan"], position + 1
    if not token.glued:
        inches = token.text == "in" and not after.text.isalnum()  # "(5 in)"
        unit = UNITS["tahun"] if token.text in ("th", "yo") else UNITS["inch"] if inches else None
        return unit, position + (unit is not None)
    stuck = _STUCK.match(token.text)
    if stuck:
        return UNITS[stuck.group()], position + 1
    unit = None if after.glued and (after.is_number or after.text[0].isalpha()) else _attached(token.text, before, words)
    return unit, position + (unit is not None)


def _attached(text: str, before: str, words: Set[str]) -> Unit | None:
    """Returns the unit that letters are only where they touch the number before."""
    if text in ("in", "ins"):
        return UNITS["inch"]
    if text == "go" or (text == "g" and before in _MEMORY_SIZES and not COMPUTING.isdisjoint(words)):
        return UNITS["gb"]
    if text == "er" or (text == "s" and 1 < len(before) < 4 and before.isdigit()):
        return UNITS["pcs"]
    if text == "k" and before in _KARATS and not GOLDEN.isdisjoint(words):
        return UNITS["karat"]
    return None


def _of_babies(tokens: list[Token], position: int, words: Set[str]) -> bool:
    return at(tokens, position - 2).text == "-" and not BABIES.isdisjoint(words)


def _sign(tokens: list[Token], position: int) -> tuple[Unit | None, int]:
    """Reads a unit that is written as a sign: %, ", '', '."""
    token = at(tokens, position)
    if token.text == "%":
        return UNITS["%"], position + 1
    if token.text not in ('"', "'"):
        return None, position
    size = number(tokens[position - 1].text)
    if size is None or not 0 < size <= _MAX_INCHES_BY_QUOTE or position > _MAX_TOKENS:
        return None, position
    after = at(tokens, position + 1)
    if token.text == "'":
        if after.text == "'" and after.glued:
            return UNITS["inch"], position + 2
        if after.text == "s" and after.glued:
            return (UNITS["pcs"], position + 2) if len(tokens[position - 1].text) > 1 else (None, position)
        return (None, position) if after.glued and after.is_number else (FOOT_MARK, position + 1)
    opened = sum(one.text == '"' and not (one.glued and tokens[n - 1].is_number) for n, one in enumerate(tokens[:position]))
    return (None, position) if opened % 2 or (after.glued and after.text.isalpha()) else (UNITS["inch"], position + 1)
