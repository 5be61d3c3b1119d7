"""Contact sheets of pairs: what a bundle takes for the same product, or fails to, side by side."""

from __future__ import annotations

import functools
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
from matplotlib.ft2font import FT2Font
from PIL import Image, ImageDraw, ImageFont, ImageOps

from app.encoders.preprocess import InputLimits, open_image
from app.errors import AppError
from app.evaluation.results import Pair
from app.labelled.listings import Item

PAIRS = 12
PAIRS_OF_GROUPS = 2
COLUMNS = 3
TILE = 136  # sides of a photo in pixels
GAP = 10
LINE = 15
TITLE_LINES = 3
CELL_WIDTH = 2 * TILE + GAP
_TOP = 24  # above the tiles of a pair
COLOURS = 255  # of a sheet: a palette makes the file a third of its size
LIMITS = InputLimits()
BOX = "□"

_INK, _FAINT, _PAPER, _TILE_PAPER = "#1a1a1a", "#666666", "#ffffff", "#eeeeee"


@dataclass(frozen=True, slots=True)
class _Style:
    """Fonts of a sheet."""

    heading: ImageFont.FreeTypeFont
    title: ImageFont.FreeTypeFont
    small: ImageFont.FreeTypeFont
    tile: ImageFont.FreeTypeFont


@dataclass(frozen=True, slots=True)
class _Side:
    """One listing of a pair: its photo, or what the tile says `instead`, and the lines `below` with colour and font."""

    photo: Image.Image | None
    instead: str
    below: list[tuple[str, str, ImageFont.FreeTypeFont]]


def printable(text: str) -> str:
    """Returns text on one line that DejaVu Sans can draw: a box stands for each character that the font lacks.

    Marks and invisible characters that it lacks are left out, for a box each would make two of one letter.
    """
    known = _charmap()
    kept = [_drawn(character, known) for character in " ".join(text.split())]
    return "".join(kept)


def _drawn(character: str, known: frozenset[int]) -> str:
    kind = unicodedata.category(character)
    if kind in ("Cc", "Cf"):
        return ""
    if ord(character) in known:
        return character
    return "" if kind.startswith("M") else BOX


def write_sheet(file: Path, heading: str, pairs: Sequence[Pair], items: Mapping[str, Item]) -> None:
    """Writes a PNG of up to `PAIRS` pairs (see `varied`), each side with its photo, title, id and group.

    A side without a photo shows its title in the place of it; one whose photo cannot be read, or that `items` lacks, says
    so.

    Args:
        file: where.
        heading: what the pairs have in common.
        pairs: the worst first.
        items: listings by id.
    """
    style = _style()
    cells = [
        (pair, [_side(name, items.get(name), style) for name in (pair.query, pair.other)]) for pair in varied(pairs, items)
    ]
    rows = [cells[first : first + COLUMNS] for first in range(0, len(cells), COLUMNS)]
    heights = [_TOP + TILE + 3 * GAP + LINE * max(len(side.below) for _, sides in row for side in sides) for row in rows]
    width = COLUMNS * (CELL_WIDTH + 2 * GAP) + 2 * GAP
    above = 2 * GAP + 2 * LINE
    sheet = Image.new("RGB", (width, above + sum(heights)), _PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((2 * GAP, GAP + 4), _cut(printable(heading), style.heading, width - 4 * GAP), _INK, style.heading)
    number = 0
    for row, height in zip(rows, heights, strict=True):
        for column, (pair, sides) in enumerate(row):
            number += 1
            left = 2 * GAP + column * (CELL_WIDTH + 2 * GAP)
            draw.line((left, above, left + CELL_WIDTH, above), "#cccccc")
            draw.text((left, above + 5), f"{number}.  score {pair.score:.3f}", _INK, style.heading)
            for place, side in enumerate(sides):
                _draw_side(sheet, draw, (left + place * (TILE + GAP), above + _TOP), side, style)
        above += height
    sheet.quantize(COLOURS, kmeans=2, dither=Image.Dither.NONE).save(file, "PNG", optimize=True)


def varied(pairs: Sequence[Pair], items: Mapping[str, Item]) -> list[Pair]:
    """Returns up to `PAIRS` of the pairs in their order: of the same two groups a few only, as long as there are others.

    One odd group would fill the sheet otherwise: each of its members is wrong about all the others.
    """
    seen: Counter[frozenset[str]] = Counter()
    first: list[int] = []
    rest: list[int] = []
    for place, pair in enumerate(pairs):
        known = (items.get(name) for name in (pair.query, pair.other))
        groups = frozenset(str(item.group) for item in known if item is not None)
        seen[groups] += 1
        (rest if groups and seen[groups] > PAIRS_OF_GROUPS else first).append(place)
    return [pairs[place] for place in sorted([*first, *rest][:PAIRS])]


def _side(name: str, item: Item | None, style: _Style) -> _Side:
    """Finds out what is to be seen of a listing."""
    title = printable(item.title) if item is not None and item.title else "(no title)"
    photo, instead = _photo(item, title)
    known = [] if item is None or instead == title else _wrap(title, style.title, TILE, TITLE_LINES)
    group = f"group {item.group}" if item is not None and item.group is not None else "no group"
    names = [_cut_inside(printable(line), style.small, TILE) for line in (name, group)]
    below = [*((line, _INK, style.title) for line in known), *((line, _FAINT, style.small) for line in names)]
    return _Side(photo, instead, below)


def _draw_side(sheet: Image.Image, draw: ImageDraw.ImageDraw, place: tuple[int, int], side: _Side, style: _Style) -> None:
    left, top = place
    if side.photo is not None:
        sheet.paste(side.photo, place)
    else:
        _text_tile(draw, place, side.instead, style)
    for number, (line, colour, font) in enumerate(side.below):
        draw.text((left, top + TILE + 4 + number * LINE), line, colour, font)


def _photo(item: Item | None, title: str) -> tuple[Image.Image | None, str]:
    """Returns the photo framed as a tile, or what the tile says instead."""
    if item is None:
        return None, "(listing not at hand)"
    if item.photo is None:
        return None, title
    try:
        image = open_image(item.photo.read(), LIMITS)
    except AppError:
        return None, "(photo cannot be read)"
    return ImageOps.pad(image, (TILE, TILE), Image.Resampling.LANCZOS, _PAPER), ""


def _text_tile(draw: ImageDraw.ImageDraw, place: tuple[int, int], text: str, style: _Style) -> None:
    left, top = place
    draw.rectangle((left, top, left + TILE - 1, top + TILE - 1), _TILE_PAPER)
    pitch = LINE + 2
    for number, line in enumerate(_wrap(text, style.tile, TILE - 16, (TILE - 16) // pitch)):
        draw.text((left + 8, top + 8 + number * pitch), line, _INK, style.tile)


def _wrap(text: str, font: ImageFont.FreeTypeFont, width: int, lines: int) -> list[str]:
    """Breaks text at spaces, and words that are too long for a line (or know no spaces) anywhere."""
    words = [piece for word in text.split() for piece in _pieces(word, font, width)]
    found: list[str] = []
    for word in words:
        joined = f"{found[-1]} {word}" if found else word
        if found and font.getlength(joined) <= width:
            found[-1] = joined
        else:
            found.append(word)
    if len(found) > lines:
        found[lines - 1 :] = [_cut(" ".join(found[lines - 1 :]), font, width)]
    return found


def _pieces(word: str, font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    found = []
    while font.getlength(word) > width:
        fitting = _fitting(len(word), lambda n: font.getlength(word[:n]) <= width)  # noqa: B023 - used at once
        found.append(word[:fitting])
        word = word[fitting:]
    return [*found, word]


def _cut(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """Shortens text to a width."""
    if font.getlength(text) <= width:
        return text
    return text[: _fitting(len(text), lambda n: font.getlength(text[:n] + "…") <= width)] + "…"


def _cut_inside(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """Shortens text in the middle: names that begin alike often differ at the end."""
    if font.getlength(text) <= width:
        return text

    def shortened(kept: int) -> str:
        return f"{text[: kept - kept // 2]}…{text[len(text) - kept // 2 :]}"

    return shortened(_fitting(len(text), lambda n: font.getlength(shortened(n)) <= width))


def _fitting(longest: int, fits: Callable[[int], bool]) -> int:
    """Returns the largest number of characters that fits, at least 1."""
    low, high = 1, longest
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low


def _font_file(name: str) -> str:
    return str(Path(mpl.get_data_path()) / "fonts" / "ttf" / name)


@functools.cache
def _charmap() -> frozenset[int]:
    return frozenset(FT2Font(_font_file("DejaVuSans.ttf")).get_charmap())


def _style() -> _Style:
    # without Raqm, text in scripts that join letters comes out plainer, but the same everywhere
    def font(name: str, size: int) -> ImageFont.FreeTypeFont:
        return ImageFont.truetype(_font_file(name), size, layout_engine=ImageFont.Layout.BASIC)

    return _Style(
        font("DejaVuSans-Bold.ttf", 13), font("DejaVuSans.ttf", 11), font("DejaVuSans.ttf", 10), font("DejaVuSans.ttf", 12)
    )
