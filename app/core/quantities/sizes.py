"""Sizes of clothes, shoes and diapers: "size 42", "EU 38", "S/M/L", "3XL", "all size", "L44"."""

from __future__ import annotations

import re

from app.core.quantities.facts import Value

ALL = "all"
_LETTER = "(?:x{0,4}s|m|x{0,5}l|[2-6]xl)"
_NAMED = "(?:(?:size|sz|ukuran|uk|fit to|fit|taille|talla|taglia|größe)[ :.]{0,2})"
_SURE = re.compile(
    rf"(?<![^\W_]){_NAMED}?(?P<range>(?P<low>x{{0,3}}[sl]|m) ?- ?(?P<high>x{{1,4}}l|l|[2-6]xl))(?![^\W_])"
    rf"|(?<![^\W_']){_NAMED}?(?P<list>{_LETTER}(?: ?[,/&] ?{_LETTER})+)(?![^\W_])"
    rf"|(?<![^\W_]){_NAMED}(?P<named>{_LETTER})(?![^\W_'])"
    r"|(?<![^\W_])(?P<alone>x{1,4}s|x{1,5}l|[2-6]xl)(?![^\W_])"
    r"|(?<![^\W_])(?P<all>all ?size|free ?size|one ?size|onesize|tu unico|talla unica|taille unique)(?![^\W_])"
)
_DIAPERS = re.compile(
    r"popok|diaper|pampers|mamypoko|mamy poko|merries|sweety|nepia|huggies|goo\.?n|fitti|makuku|pants|windel|couche|pañal"
)
_DIAPER = re.compile(
    r"(?<![^\W_])(?P<size>nb|x{0,4}s|m|x{0,4}l)[ -]?(?P<count>[1-9][0-9]{1,2})(?:'?s)?(?![^\W_])(?! ?(?:kg|cm|ml|gr|g)\b)"
)


def size_values(text: str) -> tuple[list[Value], list[tuple[int, int]]]:
    """Reads the sizes that are written as letters.

    Args:
        text: a `plain` title.

    Returns:
        Sizes (and counts, as in "L44"), and the places of the text that are used up.
    """
    values, spans = list[Value](), list[tuple[int, int]]()
    if _DIAPERS.search(text):
        for found in _DIAPER.finditer(text):
            if found["size"] != "nb":
                values.append(_letter(found["size"]))
            count = float(found["count"])
            values.append(Value("count", count, count, f"{found['count']} pcs"))
            spans.append(found.span())
    for found in _SURE.finditer(text):
        read = _sizes_of(found)
        if read:
            values += read
            spans.append(found.span())
    return values, spans


def _sizes_of(found: re.Match[str]) -> list[Value]:
    if found["all"]:
        return [Value("size", 0, 0, "all sizes", ALL)]
    if found["range"]:
        low, high = _ordinal(found["low"]), _ordinal(found["high"])
        return [Value("size", low, high, found["range"].upper(), "letter")] if low < high else []
    if found["list"]:
        parts = re.split(r" ?[,/&] ?", found["list"])
        return [] if set(parts) <= {"s"} or len(set(parts)) == 1 else [_letter(part) for part in parts]
    return [_letter(found["named"] or found["alone"])]


def _letter(letters: str) -> Value:
    place = _ordinal(letters)
    return Value("size", place, place, letters.upper(), "letter")


def _ordinal(letters: str) -> float:
    """Returns the place of a size: S -1, M 0, L 1, XL 2, 3XL 4."""
    if letters[0].isdigit():
        return 1.0 + int(letters[0])
    return {"s": -1.0, "m": 0.0, "l": 1.0}[letters[-1]] * len(letters)
