"""What sellers do to a photo before they list it again, one function per edit.

Every edit takes an RGB image of at least `MIN_SIDE_PX` on its short side, a generator that makes all choices, and
other photos that a collage may show. It returns a new RGB image, again at least that large, and leaves its input as it
was. Sizes follow the photo, so an edit looks the same on a thumbnail and on an original. The kinds of edits follow
those that copies are found with in Douze et al., "The 2021 Image Similarity Dataset and Challenge" (arXiv 2106.09672).
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TypeVar

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

Edit = Callable[[Image.Image, np.random.Generator, Sequence[Image.Image]], Image.Image]
Colour = tuple[int, int, int]
Choice = TypeVar("Choice")

MIN_SIDE_PX = 32
WHITE: Colour = (255, 255, 255)
_BILINEAR = Image.Resampling.BILINEAR
_LUMA = np.array((0.299, 0.587, 0.114))  # ITU-R BT.601

_LOUD: tuple[Colour, ...] = (
    (214, 24, 31), (238, 77, 45), (255, 190, 0), (0, 150, 64), (0, 92, 184), (20, 20, 20), (233, 30, 140), (106, 27, 154),
)  # fmt: skip
_SLOGANS = (
    "PROMO", "READY STOCK", "ORIGINAL", "GRATIS ONGKIR", "BEST SELLER", "FREE SHIPPING", "TERLARIS", "100% ORI", "COD",
    "DISKON 50%", "SALE", "TERMURAH", "NEW ARRIVAL", "BISA COD", "Toko Jaya", "@my.shop", "LIMITED", "Rp 49.900", "Grosir",
    "OFERTA", "ENVIO GRATIS", "HOT SALE", "GARANSI", "Official Store", "beli 2 lebih hemat", "bahan premium",
)  # fmt: skip
_STICKERS = ("SALE", "50%", "-20%", "NEW", "COD", "HOT", "ORI", "BEST", "PROMO", "FREE", "100%", "TOP", "OK", "1+1")


def pick(random: np.random.Generator, choices: Sequence[Choice]) -> Choice:
    """Returns one of the choices, each equally likely."""
    return choices[int(random.integers(len(choices)))]


def flat_edge(image: Image.Image) -> Colour | None:
    """Returns the colour that runs all around the photo, as in a studio, or None where the edges show something."""
    w, h = image.size
    strips = ((0, 0, w, 1), (0, h - 1, w, h), (0, 0, 1, h), (w - 1, 0, w, h))
    edge = np.stack([np.asarray(image.resize((8, 1), _BILINEAR, box=box)) for box in strips]).reshape(-1, 3)
    low, middle, high = np.sort(edge, axis=0)[[3, 16, 28]].astype(int)  # of 32: a tenth may differ on either end
    return (int(middle[0]), int(middle[1]), int(middle[2])) if (high - low).max() < 24 else None


def crop(image: Image.Image, random: np.random.Generator, others: Sequence[Image.Image] = ()) -> Image.Image:
    """Keeps 65 to 97% of each side, anywhere."""
    share = random.uniform(0.68, 0.96)
    w, h = (max(MIN_SIDE_PX, round(side * share * random.uniform(0.95, 1.01))) for side in image.size)
    x = int(random.integers(max(1, image.width - w + 1)))
    y = int(random.integers(max(1, image.height - h + 1)))
    return image.crop((x, y, min(x + w, image.width), min(y + h, image.height)))


def border(image: Image.Image, random: np.random.Generator, others: Sequence[Image.Image] = ()) -> Image.Image:
    """Adds a frame of 2 to 9% of the short side, bars above and below, or one bar; some frames have a second line."""
    colour = WHITE if random.random() < 0.25 else pick(random, _LOUD)
    thick = max(2, round(min(image.size) * random.uniform(0.02, 0.09)))
    kind = random.random()
    if kind < 0.6:
        framed = ImageOps.expand(image, thick, colour)
        if random.random() < 0.3:
            inner = thick // 2
            far = (framed.width - inner - 1, framed.height - inner - 1)
            ImageDraw.Draw(framed).rectangle((inner, inner, *far), outline=pick(random, _LOUD), width=max(1, thick // 5))
        return framed
    bar = round(thick * 1.5)
    sides = (0, bar, 0, bar) if kind < 0.8 else (0, 0, 0, bar)
    return ImageOps.expand(image, sides, colour)


@lru_cache(maxsize=256)
def _font(size_px: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size=size_px)


def _lettering(words: str, height_px: float, width_px: float, bold: int) -> Image.Image:
    """Returns the words as an "L" mask, at most `width_px` wide and about `height_px` high."""
    # a letter of the built-in font is about .6 of its size wide
    font = _font(max(6, round(min(height_px, (width_px - 2 * bold - 2) / (0.62 * len(words))))))
    ruler = ImageDraw.Draw(Image.new("L", (1, 1)))
    left, top, right, bottom = ruler.textbbox((0, 0), words, font=font, stroke_width=bold)
    mask = Image.new("L", (math.ceil(right - left) + 2, math.ceil(bottom - top) + 2))
    ImageDraw.Draw(mask).text((1 - left, 1 - top), words, fill=255, font=font, stroke_width=bold)
    return mask


def _contrast(colour: Colour) -> Colour:
    return (20, 20, 20) if 0.3 * colour[0] + 0.59 * colour[1] + 0.11 * colour[2] > 150 else WHITE


def text(image: Image.Image, random: np.random.Generator, others: Sequence[Image.Image] = ()) -> Image.Image:
    """Writes a slogan or a shop's name: on a band, with an outline, or as a pale watermark across the middle."""
    changed = image.copy()
    height = min(image.size) * random.uniform(0.07, 0.13)
    words, colour, kind = pick(random, _SLOGANS), pick(random, (*_LOUD, WHITE, WHITE)), random.random()
    bold = round(height / 18)
    mask = _lettering(words, height, image.width * 0.92, bold)
    if kind < 0.25:
        mask = mask.rotate(random.uniform(-35, 35), _BILINEAR, expand=True).point([v * 2 // 5 for v in range(256)])
        place = ((image.width - mask.width) // 2, (image.height - mask.height) // 2)
        changed.paste(WHITE if np.asarray(image.reduce(8)).mean() < 150 else (60, 60, 60), place, mask)
        return changed
    # slogans keep clear of the product: near the upper or the lower edge
    spare_x, spare_y = max(0, image.width - mask.width), max(0, image.height - mask.height)
    away = round(spare_y * random.uniform(0.01, 0.08))
    y = away if random.random() < 0.4 else spare_y - away
    x = round(spare_x * pick(random, (0.03, 0.5, 0.97)))
    if kind < 0.65:
        pad, opaque = max(2, round(mask.height * 0.35)), pick(random, (255, 255, 170))
        left, right = (0, image.width) if random.random() < 0.6 else (x - pad, x + mask.width + pad)
        veil = Image.new("L", image.size)
        ImageDraw.Draw(veil).rectangle((left, y - pad, right, y + mask.height + pad), fill=opaque)
        changed.paste(colour, mask=veil)
        changed.paste(_contrast(colour), (x, y), mask)
        return changed
    outline = _lettering(words, height, image.width * 0.92, bold * 2 + 1)
    grown = ((outline.width - mask.width) // 2, (outline.height - mask.height) // 2)
    changed.paste(_contrast(colour), (x - grown[0], y - grown[1]), outline)
    changed.paste(colour, (x, y), mask)
    return changed


def _sticker_shape(kind: int, side: int) -> Image.Image:
    """Returns an "L" mask of `side` pixels: a disc, a rounded square, or a star of many points."""
    large = side * 2  # drawn twice as large: polygons have no soft edges
    mask = Image.new("L", (large, large))
    draw = ImageDraw.Draw(mask)
    if kind == 0:
        draw.ellipse((0, 0, large - 1, large - 1), fill=255)
    elif kind == 1:
        draw.rounded_rectangle((0, large // 5, large - 1, large * 4 // 5), radius=large // 8, fill=255)
    else:
        half, points = large / 2, 28
        ring = [half * (1.0 if n % 2 else 0.86) for n in range(points)]
        turns = [n * 2 * math.pi / points for n in range(points)]
        draw.polygon([(half + r * math.cos(a), half + r * math.sin(a)) for r, a in zip(ring, turns, strict=True)], fill=255)
    return mask.reduce(2)


def badge(image: Image.Image, random: np.random.Generator, others: Sequence[Image.Image] = ()) -> Image.Image:
    """Puts a sticker (disc, rounded or star) of 20 to 32% of the short side into a corner, with a short promo word."""
    side = max(14, round(min(image.size) * random.uniform(0.20, 0.32)))
    colour = pick(random, _LOUD)
    shape = _sticker_shape(int(random.integers(3)), side)
    sticker = Image.new("RGB", shape.size, colour)
    letters = _lettering(pick(random, _STICKERS), side * 0.4, side * 0.8, side // 40)
    sticker.paste(_contrast(colour), ((side - letters.width) // 2, (side - letters.height) // 2), letters)
    turn = random.uniform(-18, 18)
    away = round(side * random.uniform(0.0, 0.2))
    x = away if random.random() < 0.5 else image.width - side - away
    y = away if random.random() < 0.6 else image.height - side - away
    changed = image.copy()
    changed.paste(sticker.rotate(turn, _BILINEAR, fillcolor=colour), (x, y), shape.rotate(turn, _BILINEAR))
    return changed


def filled(image: Image.Image, size: tuple[int, int], centre: tuple[float, float] = (0.5, 0.5)) -> Image.Image:
    """Returns the photo scaled and cropped to `size`, around `centre` (shares of what is left over)."""
    scale = min(image.width / size[0], image.height / size[1])
    w, h = size[0] * scale, size[1] * scale
    x, y = max(0.0, image.width - w) * centre[0], max(0.0, image.height - h) * centre[1]
    box = (x, y, min(x + w, image.width), min(y + h, image.height))
    return image.resize(size, _BILINEAR, box=box, reducing_gap=2.0)


def _companion(
    image: Image.Image, random: np.random.Generator, others: Sequence[Image.Image], size: tuple[int, int]
) -> Image.Image:
    """Returns another photo, or a detail of the same one, of that size."""
    if others and random.random() < 0.6:
        return filled(pick(random, others), size)
    w, h = (round(side * random.uniform(0.35, 0.6)) for side in image.size)
    x, y = round((image.width - w) * random.uniform(0.2, 0.8)), round((image.height - h) * random.uniform(0.2, 0.8))
    return filled(image.crop((x, y, x + w, y + h)), size)


def collage(image: Image.Image, random: np.random.Generator, others: Sequence[Image.Image] = ()) -> Image.Image:
    """Shows the photo with one or two more (others, or details of itself): beside, below or in a corner of it.

    The photo keeps 55 to 75% of the area, or all but an inset.
    """
    if random.random() < 0.3:
        return _with_inset(image, random, others)
    share = random.uniform(0.55, 0.75)
    wide = image.height >= image.width if random.random() < 0.8 else image.height < image.width
    full = (image.width / share, image.height) if wide else (image.width, image.height / share)
    scale = max(min(1.0, MIN_SIDE_PX / min(image.size)), max(image.size) / max(*full, *image.size))
    main = image.resize((round(image.width * scale), round(image.height * scale)), _BILINEAR, reducing_gap=2.0)
    w, h = round(full[0] * scale), round(full[1] * scale)
    gap = round(min(w, h) * pick(random, (0, 0, 0.015, 0.03)))
    canvas = Image.new("RGB", (w, h), WHITE)
    strip = (w - main.width - gap, h) if wide else (w, h - main.height - gap)
    count = 1 if random.random() < 0.5 else 2
    first = random.random() < 0.25  # the strip comes first
    start = (main.width + gap, 0) if wide else (0, main.height + gap)
    origin = (0, 0) if first else start
    step = (0, strip[1] // count) if wide else (strip[0] // count, 0)
    tile = (strip[0], strip[1] // count - gap) if wide else (strip[0] // count - gap, strip[1])
    tile = (max(1, tile[0] if count > 1 else strip[0]), max(1, tile[1] if count > 1 else strip[1]))
    for n in range(count):
        canvas.paste(_companion(image, random, others, tile), (origin[0] + n * step[0], origin[1] + n * step[1]))
    canvas.paste(main, ((w - main.width, 0) if wide else (0, h - main.height)) if first else (0, 0))
    return canvas


def _with_inset(image: Image.Image, random: np.random.Generator, others: Sequence[Image.Image]) -> Image.Image:
    side = round(min(image.size) * random.uniform(0.26, 0.36))
    ring = max(1, side // 24)
    inner = max(1, side - 2 * ring)
    shape = Image.new("L", (side * 2, side * 2), 255)
    if random.random() < 0.6:
        shape = Image.new("L", (side * 2, side * 2))
        ImageDraw.Draw(shape).ellipse((0, 0, side * 2 - 1, side * 2 - 1), fill=255)
    tile = Image.new("RGB", (side, side), pick(random, (WHITE, WHITE, *_LOUD)))
    tile.paste(_companion(image, random, others, (inner, inner)), (ring, ring), shape.resize((inner, inner), _BILINEAR))
    x = pick(random, (side // 10, image.width - side - side // 10))
    y = pick(random, (side // 10, image.height - side - side // 10))
    changed = image.copy()
    changed.paste(tile, (x, y), shape.reduce(2))
    return changed


def mirror(image: Image.Image, random: np.random.Generator, others: Sequence[Image.Image] = ()) -> Image.Image:
    """Swaps left and right."""
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)


def jpeg(image: Image.Image, random: np.random.Generator, others: Sequence[Image.Image] = ()) -> Image.Image:
    """Saves as JPEG of quality 20 to 90, as every upload does once more."""
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=int(random.integers(20, 91)))
    with Image.open(stream, formats=("JPEG",)) as again:
        return again.convert("RGB")


def colour(image: Image.Image, random: np.random.Generator, others: Sequence[Image.Image] = ()) -> Image.Image:
    """Changes brightness, contrast and saturation by up to a quarter, and the hue by up to about 3 degrees.

    The hue stays: a garment in another colour is another product.
    """
    brightness, contrast, saturation = random.uniform((0.8, 0.85, 0.75), (1.2, 1.15, 1.2)).tolist()
    turn = math.radians(random.uniform(-2.5, 2.5))
    # all in one pass, and without the clipping between passes that does shift hues: the parts of a pixel along grey
    # and across it are scaled, and the part across turned (by Rodrigues' formula around the grey axis)
    grey, third = np.tile(_LUMA, (3, 1)), np.full((3, 3), 1 / 3)
    around = np.array(((0, -1, 1), (1, 0, -1), (-1, 1, 0))) / math.sqrt(3)
    turned = math.cos(turn) * np.eye(3) + (1 - math.cos(turn)) * third + math.sin(turn) * around
    matrix = brightness * contrast * (grey + saturation * (np.eye(3) - grey)) @ turned
    level = float((np.asarray(image.resize((16, 16), Image.Resampling.BOX)).mean(axis=(0, 1)) * _LUMA).sum())
    shift = np.full((3, 1), brightness * (1 - contrast) * level)
    return image.convert("RGB", tuple(np.hstack([matrix, shift]).ravel().tolist()))


def rotation(image: Image.Image, random: np.random.Generator, others: Sequence[Image.Image] = ()) -> Image.Image:
    """Turns by 2 to 12 degrees; fills the corners with a studio's background, or zooms in until none show."""
    ground = flat_edge(image)
    angle = math.radians(random.uniform(2, 12) * pick(random, (-1, 1)))
    w, h = image.size
    zoom = 1.0 if ground else math.cos(angle) + max(w / h, h / w) * abs(math.sin(angle))
    c, s = math.cos(angle) / zoom, math.sin(angle) / zoom
    shift = (w / 2 * (1 - c) - h / 2 * s, h / 2 * (1 - c) + w / 2 * s)
    matrix = (c, s, shift[0], -s, c, shift[1])
    return image.transform(image.size, Image.Transform.AFFINE, matrix, _BILINEAR, fillcolor=ground or WHITE)


def downscale(image: Image.Image, random: np.random.Generator, others: Sequence[Image.Image] = ()) -> Image.Image:
    """Makes the photo 30 to 80% as large, the short side never below 64 pixels by it."""
    scale = max(random.uniform(0.3, 0.8), min(1.0, 64 / min(image.size)))
    return image.resize(
        (max(1, round(image.width * scale)), max(1, round(image.height * scale))), _BILINEAR, reducing_gap=2.0
    )
