"""Reads what a title says in numbers."""

from __future__ import annotations

import re
from collections.abc import Set

from app.core.quantities.codes import read_codes
from app.core.quantities.facts import KINDS, Facts, Value, written
from app.core.quantities.following import at
from app.core.quantities.groups import Group, read_group, values_of
from app.core.quantities.sizes import size_values
from app.core.quantities.tokens import Token, number, plain, tokenise
from app.core.quantities.words import (
    BARE_COUNTS,
    FILLED,
    FILLED_BY,
    FILLERS,
    OFFERED,
    PREFIXES,
    PRICED,
    RATE,
    SHIPPED,
    SIZED,
    SYSTEMS,
    TIMES,
    ZOOMS,
)
from app.core.remembering import remembered

_ORDER = {kind: place for place, kind in enumerate(KINDS)}
_SKIPPED = frozenset(":.(@[")
_SIZES = (0.5, 64.0)  # what is a size of clothes or shoes, and an aperture
MAX_FACTS = 64  # of a title; a longer list is no product, and comparing lists takes time
_MAX_COUNT = 5000
_MAX_LETTERS = 2  # before an amount that they touch: "L20cm"
_LONG = 10_000
_DIGIT = re.compile("[0-9]")
_SIZED_TEXT = re.compile(r"size|ukuran|(?<![^\W_])(?:taille|talla|taglia|größe|uk|sz|fit|x*[sml][0-9]*|[0-9]xl)(?![^\W_])")
_EMPTY = Facts()
_OFFERABLE = frozenset(("count", "age", "percent"))
_PARCELS = [[bracket, "1", "kg"] for bracket in "([{"]
Span = tuple[int, int]


@remembered(kept=16384, longest=256)
def read_facts(title: str) -> Facts:
    """Returns what a title says in numbers, made comparable.

    Case does not matter, and whatever the title, nothing is raised.

    Args:
        title: as `app.encoders.preprocess.clean_title` returns it.
    """
    text = plain(title)
    values, used = size_values(text) if _SIZED_TEXT.search(text) else ([], [])
    if not values and not _DIGIT.search(text) and not any(word in text for word in BARE_COUNTS):
        return _EMPTY
    tokens = tokenise(text)
    words = {token.text for token in tokens}
    _read_numbers(tokens, words, values, used)
    codes, joined, short = read_codes(text, used)
    values += [Value("variant", 0, 0, code.upper(), code) for code in short]
    unique = sorted(
        list(dict.fromkeys(values))[:MAX_FACTS], key=lambda one: (_ORDER[one.kind], one.label, one.low, one.high, one.sides)
    )
    return Facts(tuple(unique), tuple(sorted(codes)[:MAX_FACTS]), tuple(sorted(joined - codes)[:MAX_FACTS]))


def _read_numbers(tokens: list[Token], words: Set[str], values: list[Value], used: list[Span]) -> None:
    """Adds the values of all numbers, and the places where they stand."""
    position = 0
    while position < len(tokens):
        token = tokens[position]
        if not token.is_number:
            bare = BARE_COUNTS.get(token.text)
            if bare and not at(tokens, position - 1).is_number:
                values.append(Value("count", bare, bare, f"{bare} pcs"))
            position += 1
            continue
        if any(first <= token.start < last for first, last in used):
            position += 1
            continue
        position = _read_number(tokens, position, words, values, used)


def _read_number(tokens: list[Token], position: int, words: Set[str], values: list[Value], used: list[Span]) -> int:
    """Adds the values of the number at a position; returns the position after what has been read."""
    group = read_group(tokens, position, words)
    if _in_code(tokens, position, group):
        return position + 1
    before, start = _word_before(tokens, position)
    found = values_of(group.terms)
    if _is_offer(tokens, group, before, found) or _is_parcel(tokens, position, group, before, found):
        used.append((tokens[position].start, tokens[group.end - 1].end))
        return group.end
    if before in PRICED:
        used.append((tokens[start].start, tokens[group.end - 1].end))
        return group.end
    if all(term.unit is None or term.unit is TIMES for term in group.terms):
        found = _from_context(tokens, position, group, before, found)
    if found:
        first = start if before in PREFIXES and tokens[position].glued else position
        if not all(value.kind == "number" for value in found) or at(tokens, group.end).text == "in":
            used.append((tokens[first].start, _end(tokens, group, found)))
        values += found
    elif any(term.unit is RATE for term in group.terms):
        used.append((tokens[position].start, tokens[group.end - 1].end))
    return group.end


def _end(tokens: list[Token], group: Group, found: list[Value]) -> int:
    """Returns where what has been read ends, the mark of a lens after its aperture included: f/4L."""
    after = at(tokens, group.end)
    mark = found[0].kind == "aperture" and after.glued and after.text.isalpha() and len(after.text) == 1
    return after.end if mark else tokens[group.end - 1].end


def _in_code(tokens: list[Token], position: int, group: Group) -> bool:
    """Whether a number is a part of a code: letters touch it that are neither a unit after it nor a known word before."""
    token, after = tokens[position], at(tokens, group.end)
    before, ahead = at(tokens, position - 1), at(tokens, position - 2)
    if before.text == "f" or (before.text == "/" and ahead.text == "f"):  # an aperture, but for F7B5
        return after.glued and after.text.isalpha() and at(tokens, group.end + 1).glued
    sure = _is_sure(tokens, position, group)
    if after.glued and after.text[0].isalpha() and not sure and after.text not in ("in", "x"):
        return True
    if not token.glued:
        return False
    if before.text[0].isalpha():  # codes are of Latin letters, and some scripts have no spaces
        return not sure and before.text.isascii() and (before.text not in PREFIXES or (before.glued and ahead.is_number))
    return before.text == "-" and before.glued and ahead.text[0].isalnum() and not sure


def _is_sure(tokens: list[Token], position: int, group: Group) -> bool:
    """Whether a unit of two or more letters says that a number is no part of a code, as in "L20cm"."""
    last = at(tokens, group.end - 1)
    if all(term.unit is None or term.unit is TIMES for term in group.terms) or len(last.text) < 2 or last.text == "er":
        return False
    before, ahead = at(tokens, position - 1), at(tokens, position - 2)
    if not tokens[position].glued or not (before.text == "-" or before.text[0].isalpha()):
        return True
    return last.glued and len(before.text) <= _MAX_LETTERS and not (before.glued and ahead.is_number)


def _word_before(tokens: list[Token], position: int) -> tuple[str, int]:
    """Returns the word before a number, over signs that may stand between, and where it is."""
    place = position - 1
    while place >= 0 and position - place <= 2 and tokens[place].text in _SKIPPED:
        place -= 1
    return (tokens[place].text, place) if place >= 0 else ("", 0)


def _is_offer(tokens: list[Token], group: Group, before: str, found: list[Value]) -> bool:
    """Whether a count, a share or a time is a part of an offer or a guarantee: "buy 2", "50% off"."""
    if not found or not all(value.kind in _OFFERABLE for value in found):
        return False
    after = found[0].kind != "count" and at(tokens, group.end).text in OFFERED
    return before in OFFERED or after or (found[0].kind == "percent" and found[0].low == 100)


def _is_parcel(tokens: list[Token], position: int, group: Group, before: str, found: list[Value]) -> bool:
    """Whether an amount only says how many fit into a parcel: "1 kg = 20 pcs", "[1kg 28 pcs]"."""
    if not found or found[0].kind not in ("mass", "count"):
        return False
    if found[0].kind == "count":
        return before in SHIPPED or [token.text for token in tokens[max(0, position - 3) : position]] in _PARCELS
    ahead = at(tokens, group.end)
    return ahead.text in SHIPPED or (
        ahead.is_number and [one.text for one in tokens[position - 1 : position + 2]] in _PARCELS
    )


def _from_context(tokens: list[Token], position: int, group: Group, before: str, found: list[Value]) -> list[Value]:
    """Reads numbers without a unit by what stands around them."""
    if found:  # dimensions
        return found
    amounts = [amount for term in group.terms if (amount := term.amount) is not None]
    if not amounts:
        return []
    if before in SIZED or before in SYSTEMS:
        return _numbered_sizes(group, amounts, before)
    single = len(amounts) == 1
    if before == "spf":
        return [Value("spf", one, one, f"SPF {written(one)}") for one in amounts]
    if max(amounts) < _SIZES[1] and (before == "f" or (before == "/" and at(tokens, position - 2).text == "f")):
        low, high = min(amounts), max(amounts)
        return [Value("aperture", low, high, f"f/{written(low)}" + (f"-{written(high)}" if low < high else ""))]
    if _counts(tokens, position, group, before):
        return [
            Value("count", one, one, f"{written(one)} pcs") for one in amounts if one == int(one) and 0 < one <= _MAX_COUNT
        ]
    if single and group.terms[0].unit is TIMES and at(tokens, group.end).text in ZOOMS:
        return [Value("zoom", amounts[0], amounts[0], f"{written(amounts[0])}x zoom")]
    return _numbers(amounts)


def _numbers(amounts: list[float]) -> list[Value]:
    """Returns numbers that mean something unknown; long ones are codes or prices."""
    return [Value("number", one, one, written(one)) for one in amounts if one < _LONG]


def _numbered_sizes(group: Group, amounts: list[float], before: str) -> list[Value]:
    label = before.replace("eur", "eu") if before in SYSTEMS else "number"
    if not all(_SIZES[0] <= amount <= _SIZES[1] for amount in amounts):
        return _numbers(amounts)
    prefix = f"{label.upper()} " if label != "number" else "size "
    if len(amounts) == 2 and group.terms[1].link == "-" and amounts[0] < amounts[1]:
        return [Value("size", amounts[0], amounts[1], f"{prefix}{written(amounts[0])}-{written(amounts[1])}", label)]
    return [Value("size", one, one, f"{prefix}{written(one)}", label) for one in amounts]


def _counts(tokens: list[Token], position: int, group: Group, before: str) -> bool:
    """Whether numbers without a unit say how many pieces there are: "isi 3", "pack of 6", "x3", "(3x)"."""
    if before in FILLED:
        return True
    ahead, start = _word_before(tokens, position)
    if ahead in FILLED_BY and start > 0 and tokens[start - 1].text in FILLERS:
        return True
    ends = group.end == len(tokens) or at(tokens, group.end).text in ")],"
    if len(group.terms) == 1 and group.terms[0].unit is TIMES:
        return (position == 0 or ends) and at(tokens, group.end).text not in ZOOMS
    times = at(tokens, position - 1)
    attached = tokens[position].glued and times.text == "x" and not (times.glued and at(tokens, position - 2).text.isalnum())
    return attached and ends and (number(tokens[position].text) or 0) > 1
