"""Codes of models: KDL-46V4100, kdl46v4100 and "KDL 46V4100" are one."""

from __future__ import annotations

import re
from collections.abc import Sequence

_CHUNK = re.compile(r"(?<![^\W_])(?=[a-z.:-]*[0-9])[a-z0-9]+(?:[-.:][a-z0-9]+)*(?![^\W_])")
_GAP = 3  # spaces and dashes between a word and the code that it may belong to
_COMMON = re.compile(
    r"[0-9]+(?:d|k|p|g|x|th|st|nd|rd|in1|s|e|m|er|way|ch|pcs|v|w)|mp[34]|usb[0-9.]*|ddr[0-9]?l?-?[0-9]*|uhs-?[0-9i]+|[rw]?[0-9.]+[mgk]b(?:ps)?|pc[0-9]-?[0-9]*|h26[45]|wi-?fi[0-9]?|"
    r"v[0-9]|3g|4g|5g|type-?c|full-?hd|2in1|pm2\.5|covid-?19|tws[0-9]?|[0-9.]+"
)
MIN_CODE = 4
MIN_DIGITS = 5  # of a code without letters
_MAX_WORD = 5
_LONGEST_FIRST = 7  # letters that may be the first or the last part of a code: SDSDXPA-064G, not wireless-n300
_LONGEST_LAST = 3


def read_codes(text: str, used: Sequence[tuple[int, int]]) -> tuple[set[str], set[str], set[str]]:
    """Finds the codes of a title.

    Args:
        text: a `plain` title.
        used: the places that have been read as something else.

    Returns:
        Codes of models, what they might be joined with the word before, and codes too short to name a model ("i5").
    """
    codes, joined, short = set[str](), set[str](), set[str]()
    for found in _CHUNK.finditer(text):
        chunk, (start, end) = found.group(), found.span()
        if any(start < last and first < end for first, last in used):
            continue
        code = _code(chunk)
        if code:
            (short if len(code) < MIN_CODE else codes).add(code)
        word = _word_before(text, start) if code or (chunk.isdigit() and 2 < len(chunk) < MIN_DIGITS) else ""
        if word:
            joined.add(word + (code or chunk))
    return codes, joined, short


def _word_before(text: str, start: int) -> str:
    """Returns the short word before a place, "" if there is none or something stands between."""
    near = text[max(0, start - _MAX_WORD - _GAP - 1) : start]
    word = near.rstrip(" -")
    if not 0 < len(near) - len(word) <= _GAP:
        return ""
    word = word.rpartition(" ")[2]
    return word if word.isascii() and word.isalpha() and len(word) <= _MAX_WORD else ""


def _code(chunk: str) -> str:
    """Returns a chunk as a code without separators, "" if it is none."""
    if _COMMON.fullmatch(chunk):
        bare = chunk.replace(".", "")
        return bare if bare.isdigit() and len(bare) >= MIN_DIGITS and len(bare) - chunk.count(".") > MIN_DIGITS - 1 else ""
    parts = re.split(r"[-.:]", chunk)
    while len(parts) > 1 and parts[0].isalpha() and len(parts[0]) > _LONGEST_FIRST:
        parts = parts[1:]
    while len(parts) > 1 and parts[-1].isalpha() and len(parts[-1]) > _LONGEST_LAST:
        parts = parts[:-1]
    if len(parts) > 1 and len(parts[0]) < _LONGEST_LAST and parts[0].isdigit() and "".join(parts[1:]).isalpha():
        return ""  # 4-cup
    code = "".join(parts)
    if code.isdigit():
        return code if len(code) >= MIN_DIGITS else ""
    return "" if code.isalpha() or (len(parts) > 1 and _COMMON.fullmatch(code)) else code


def similarity(code: str, other: str) -> float:
    """Returns how alike two codes are: what they share at the start and at the end, over the longer; in [0, 1]."""
    longest, shortest = max(len(code), len(other)), min(len(code), len(other))
    head = 0
    while head < shortest and code[head] == other[head]:
        head += 1
    tail = 0
    while tail < shortest - head and code[-1 - tail] == other[-1 - tail]:
        tail += 1
    return (head + tail) / longest if longest else 0.0


def is_variant(code: str, other: str) -> bool:
    """Whether one code is the other with more before or after it (AW5901A and AW5901AER)."""
    short, long = sorted((code, other), key=len)
    return len(short) >= MIN_CODE and (long.startswith(short) or long.endswith(short))
