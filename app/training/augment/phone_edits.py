"""What a phone does to a product: the edits between a studio photo and a snapshot, one function per edit.

The contract is that of `app.training.augment.photo_edits`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from app.core.product import Pixels
from app.training.augment.photo_edits import MIN_SIDE_PX, WHITE, filled, flat_edge, pick

_BILINEAR = Image.Resampling.BILINEAR
_SHRINK = [min(255, max(0, (value - 128) * 3)) for value in range(256)]
# a uniform byte to a standard normal deviation: noise without an array of floats
_DEVIATIONS = [NormalDist().inv_cdf((value + 0.5) / 256) for value in range(256)]


def perspective(image: Image.Image, random: np.random.Generator, others: Sequence[Image.Image] = ()) -> Image.Image:
    """Looks at the photo from another side: each corner moves by up to 12% of its side.

    On a studio's background corners move both ways, elsewhere only inwards, so that nothing has to be made up.
    """
    ground = flat_edge(image)
    w, h = image.size
    low, high = (-0.1, 0.1) if ground else (0.0, 0.12)
    (ax, ay), (bx, by), (cx, cy), (dx, dy) = random.uniform(low, high, (4, 2)) * (w, h)
    corners = ((ax, ay), (w - bx, by), (w - cx, h - cy), (dx, h - dy))
    matrix = _homography(((0, 0), (w, 0), (w, h), (0, h)), corners)
    return image.transform(image.size, Image.Transform.PERSPECTIVE, matrix, _BILINEAR, fillcolor=ground or WHITE)


def _homography(
    target: Sequence[tuple[float, float]], source: Sequence[tuple[float, float]]
) -> tuple[float, float, float, float, float, float, float, float]:
    """Returns the eight numbers with which Pillow reads `source` corners for `target` corners."""
    rows: list[list[float]] = []
    for (x, y), (u, v) in zip(target, source, strict=True):
        rows.append([x, y, 1, 0, 0, 0, -u * x, -u * y])
        rows.append([0, 0, 0, x, y, 1, -v * x, -v * y])
    a, b, c, d, e, f, g, h = np.linalg.solve(np.array(rows), np.array(source, dtype=np.float64).reshape(8)).tolist()
    return a, b, c, d, e, f, g, h


def glare(image: Image.Image, random: np.random.Generator, others: Sequence[Image.Image] = ()) -> Image.Image:
    """Lays a bright ellipse with soft edges over a part of the photo: a lamp on a shiny pack."""
    side = 64  # soft, so it can be drawn small
    mask = Image.new("L", (side, side))
    x, y = random.uniform(0.15, 0.85, 2) * side
    long = random.uniform(0.12, 0.3) * side
    short = long * random.uniform(0.25, 0.8)
    ImageDraw.Draw(mask).ellipse((x - long, y - short, x + long, y + short), fill=round(random.uniform(150, 240)))
    mask = mask.rotate(random.uniform(0, 180), _BILINEAR, center=(x, y)).filter(
        ImageFilter.GaussianBlur(random.uniform(2.5, 5))
    )
    changed = image.copy()
    changed.paste((255, 255, 248), mask=mask.resize(image.size, _BILINEAR))
    return changed


def blur(image: Image.Image, random: np.random.Generator, others: Sequence[Image.Image] = ()) -> Image.Image:
    """Out of focus (radius .4 to 1% of the short side), or moved by 2 to 5% of it during the exposure."""
    short = min(image.size)
    if random.random() < 0.6:
        return image.filter(ImageFilter.GaussianBlur(max(0.6, short * random.uniform(0.004, 0.010))))
    length, angle = max(2.0, short * random.uniform(0.02, 0.05)), random.uniform(0, math.pi)
    changed, reach_x, reach_y = image, 0, 0
    # the mean of two copies, of two of those, and so on, is the mean of eight evenly spaced ones
    for share in (1 / 2, 1 / 4, 1 / 8):
        x, y = round(length * share * math.cos(angle)), round(length * share * math.sin(angle))
        changed = Image.blend(changed, ImageChops.offset(changed, x, y), 0.5)
        reach_x, reach_y = reach_x + x, reach_y + y
    # what came in from the other side goes, and one pixel more, which scaling would mix with it
    box = (1 + max(0, reach_x), 1 + reach_y, image.width - 1 + min(0, reach_x), image.height - 1)
    return changed.resize(image.size, _BILINEAR, box=box)


def _ground(
    image: Image.Image, random: np.random.Generator, others: Sequence[Image.Image], size: tuple[int, int]
) -> Image.Image:
    """Returns what the thing lies on: another photo out of focus, cloth and wood of sorts, or a plain gradient."""
    kind = random.random()
    if others and kind < 0.4:
        small = (max(1, size[0] // 3), max(1, size[1] // 3))  # small and back is out of focus
        return filled(pick(random, others), small, (random.random(), random.random())).resize(size, _BILINEAR)
    base = random.integers(60, 220) + random.integers(-25, 26, 3)  # grounds are mostly pale or grey
    if kind < 0.75:
        grain = pick(random, ((3, 40), (40, 3), (24, 24), (60, 60), (5, 5)))
        around = base + random.integers(-28, 29, (*grain, 1)) + random.integers(-6, 7, (*grain, 3))
    else:
        around = base + random.integers(-50, 51, (2, 2, 1)) + random.integers(-15, 16, (2, 2, 3))
    return Image.fromarray(np.clip(around, 0, 255).astype(np.uint8)).resize(size, Image.Resampling.BICUBIC)


def cut_out(image: Image.Image) -> Image.Image | None:
    """Returns an "L" mask of the thing on a white studio background, or None if there is no such background.

    Background is what is nearly white and seen from an edge along a row or a column, so white parts inside stay.
    """
    red, green, blue = image.split()
    darkest: Pixels = np.asarray(ImageChops.darker(ImageChops.darker(red, green), blue))
    white = (darkest > 240).astype(np.uint8)
    # a person is often cut off below, so not all of the edge is background
    if np.concatenate([white[0], white[-1], white[:, 0], white[:, -1]]).mean() < 0.6:
        return None
    seen = np.minimum.accumulate(white, axis=0) | np.minimum.accumulate(white, axis=1)
    seen |= np.minimum.accumulate(white[::-1], axis=0)[::-1] | np.minimum.accumulate(white[:, ::-1], axis=1)[:, ::-1]
    if not 0.08 < 1 - seen.mean() < 0.92:
        return None
    # shrunk by about a pixel, since the outermost one has white mixed in
    return Image.fromarray((1 - seen) * np.uint8(255)).filter(ImageFilter.BoxBlur(1.5)).point(_SHRINK)


def clutter(image: Image.Image, random: np.random.Generator, others: Sequence[Image.Image] = ()) -> Image.Image:
    """Puts the thing, a bit turned and 60 to 85% as large, on a table, a cloth or in front of something else.

    A studio photo is cut out of its white background first; any other is pasted as it is.
    """
    ground = _ground(image, random, others, image.size)
    scale = random.uniform(0.6, 0.85)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    small = image.resize(size, _BILINEAR, reducing_gap=2.0)
    angle = random.uniform(-14, 14)
    mask = (cut_out(small) or Image.new("L", size, 255)).rotate(angle, _BILINEAR, expand=True)
    small = small.rotate(angle, _BILINEAR, expand=True)
    # within the frame, or a little beyond it where the turned photo is larger
    x = round((image.width - small.width) * random.uniform(0.05, 0.95))
    y = round((image.height - small.height) * random.uniform(0.05, 0.95))
    drop = max(1, round(min(image.size) * random.uniform(0.01, 0.04)))
    low = mask.reduce(4) if min(mask.size) >= MIN_SIDE_PX else mask  # a shadow is soft, so it can be made small
    shadow = (
        low.point([v // 2 for v in range(256)]).filter(ImageFilter.BoxBlur(max(1.0, drop / 4))).resize(mask.size, _BILINEAR)
    )
    ground.paste((15, 15, 20), (x + pick(random, (-drop, 0, drop)), y + drop), shadow)
    ground.paste(small, (x, y), mask)
    return ground


def shelf(image: Image.Image, random: np.random.Generator, others: Sequence[Image.Image] = ()) -> Image.Image:
    """Shows the thing two to nine times, closely packed, as shops shelve it.

    A studio photo is cut out of its white background first; any other is put side by side as it is.
    """
    columns, rows = pick(random, ((2, 1), (3, 1), (1, 2), (2, 2), (3, 2), (3, 3)))
    ground = _ground(image, random, others, image.size)
    thing = cut_out(image) or Image.new("L", image.size, 255)
    box = thing.getbbox() or (0, 0, *image.size)
    cell = (image.width / columns, image.height / rows)
    scale = min(1.0, random.uniform(1.0, 1.35) * max(cell[0] / (box[2] - box[0]), cell[1] / (box[3] - box[1])))
    size = (max(1, round((box[2] - box[0]) * scale)), max(1, round((box[3] - box[1]) * scale)))
    copy, mask = (part.crop(box).resize(size, _BILINEAR, reducing_gap=2.0) for part in (image, thing))
    for row in range(rows):
        for column in range(columns):
            angle = random.uniform(-6, 6)
            turned, shape = (part.rotate(angle, _BILINEAR, expand=True) for part in (copy, mask))
            x = round(cell[0] * (column + 0.5 + random.uniform(-0.06, 0.06)) - turned.width / 2)
            y = round(cell[1] * (row + 0.5 + random.uniform(-0.06, 0.06)) - turned.height / 2)
            ground.paste(turned, (x, y), shape)
    return ground


def shadow(image: Image.Image, random: np.random.Generator, others: Sequence[Image.Image] = ()) -> Image.Image:
    """Darkens one side down to 45 to 75% of the light, smoothly or, like the shadow of a hand, within a short way."""
    side = 48
    angle, darkest = random.uniform(0, 2 * math.pi), random.uniform(0.45, 0.75)
    steep, where = pick(random, (1.0, 1.0, 4.0)), random.uniform(-0.2, 0.2)
    across = np.linspace(-0.7, 0.7, side)
    along = across[None, :] * math.cos(angle) + across[:, None] * math.sin(angle)
    light = np.clip((along - where) * steep * 0.7 + 0.5, 0, 1) * (1 - darkest) + darkest
    veil = Image.fromarray((light * 255).astype(np.uint8)).resize(image.size, _BILINEAR)
    return ImageChops.multiply(image, Image.merge("RGB", (veil, veil, veil)))


def white_balance(image: Image.Image, random: np.random.Generator, others: Sequence[Image.Image] = ()) -> Image.Image:
    """Makes the light warmer or cooler: red and blue by up to 10% in opposite ways, green by up to 3%."""
    warm, green = random.uniform(0.03, 0.10) * pick(random, (-1, 1)), random.uniform(-0.03, 0.03)
    gains = (1 + warm, 1 + green, 1 - warm)
    return image.point([min(255, round(v * gain)) for gain in gains for v in range(256)])


def noise(image: Image.Image, random: np.random.Generator, others: Sequence[Image.Image] = ()) -> Image.Image:
    """Adds Gaussian noise of 4 to 14 of 256 steps to every channel."""
    strength = random.uniform(4, 14)
    grain = Image.frombytes("RGB", image.size, random.bytes(image.width * image.height * 3))
    shifts = [min(255, max(0, round(128 + strength * deviation))) for deviation in _DEVIATIONS]
    return ImageChops.add(image, grain.point(shifts * 3), offset=-128)
