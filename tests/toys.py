"""Labelled listings that a small model can learn in seconds: two words and a coloured shape name the product.

Everything else is noise: the order of the words, the words that sellers add, where the shape is, and what is behind it.
All words and shapes occur in many groups, so what is learned holds for groups that training has not seen.
"""

from __future__ import annotations

import colorsys
import csv
import itertools
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageDraw

WORDS = ["apple", "melon", "carrot", "onion", "plum", "kiwi", "leek", "fig", "lime", "date", "pear", "grape"]
NOISE = ["sale", "promo", "ready", "original", "stock", "cheap"]
PAIRS = list(itertools.combinations(WORDS, 2))
EACH = 4
Row = dict[str, str | None]


def toy_photo(group: int, random: np.random.Generator, side: int = 40) -> bytes:
    """A shape of the group's colour somewhere on a grey background, as PNG."""
    grey = int(random.integers(90, 255))
    image = Image.new("RGB", (side, side), (grey, grey, grey))
    red, green, blue = (int(255 * one) for one in colorsys.hsv_to_rgb(group % 11 / 11, 0.9, (0.9, 0.45)[group % 2]))
    size = int(random.integers(side // 2, side * 3 // 4))
    x, y = (int(random.integers(0, side - size)) for _ in range(2))
    draw = ImageDraw.Draw(image)
    shape = draw.ellipse if group % 3 == 0 else draw.rectangle
    shape((x, y, x + size, y + (size // 2 if group % 3 == 1 else size)), fill=(red, green, blue))
    stream = BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def toy_title(group: int, random: np.random.Generator) -> str:
    """The group's two words among three of the sellers'."""
    words = [*PAIRS[group % len(PAIRS)], *random.choice(NOISE, 3, replace=False)]
    return " ".join(words[n] for n in random.permutation(len(words)))


def toy_table(folder: Path, groups: int, *, photos: bool = True, titles: bool = True, gaps: bool = False) -> Path:
    """Writes `listings.csv` with photo files beside it; with `gaps` every third row lacks the photo, another the title."""
    random = np.random.default_rng(7)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "listings.csv").open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["id", "title", "image", "group"])
        for n in range(groups * EACH):
            group, photo, title = n // EACH, toy_photo(n // EACH, random), toy_title(n // EACH, random)
            with_photo = photos and not (gaps and n % 3 == 0)
            if with_photo:
                (folder / f"{n}.png").write_bytes(photo)
            shown = title if titles and not (gaps and n % 3 == 1) else ""
            writer.writerow([n, shown, f"{n}.png" if with_photo else "", f"g{group}"])
    return folder / "listings.csv"


def as_parquet(table: Path) -> Path:
    """Writes the same listings as Parquet with the photos' bytes."""
    with table.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    columns: dict[str, list[str | bytes | None]] = {
        "id": [row["id"] for row in rows],
        "title": [row["title"] or None for row in rows],
        "image": [(table.parent / row["image"]).read_bytes() if row["image"] else None for row in rows],
        "group": [row["group"] for row in rows],
    }
    file = table.with_suffix(".parquet")
    pq.write_table(pa.table(columns), file)
    return file
