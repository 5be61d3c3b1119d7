"""Photos for tests: odd files, built byte by byte where Pillow cannot write them, and pictures full of shapes."""

from __future__ import annotations

import struct
import zlib
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from app.core.product import Pixels

SIDE = 32


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    stream = BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def quarters() -> Image.Image:
    """Red, green / blue, white: every turn and every mirroring looks different."""
    image = Image.new("RGB", (SIDE, SIDE), "white")
    half = SIDE // 2
    for colour, place in (("red", (0, 0)), ((0, 255, 0), (half, 0)), ("blue", (0, half))):
        image.paste(colour, (*place, place[0] + half, place[1] + half))
    return image


def corners(pixels: Pixels) -> list[tuple[int, ...]]:
    """The middle of each quarter: top left, top right, bottom left, bottom right."""
    near, far = pixels.shape[0] // 4, 3 * pixels.shape[0] // 4
    return [tuple(int(v) for v in pixels[y, x]) for y, x in ((near, near), (near, far), (far, near), (far, far))]


def noise(seed: int, width: int = 48, height: int = 40) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


def scene(seed: int, width: int = 300, height: int = 240) -> Image.Image:
    """Shapes of every size and colour: a picture that no other seed has."""
    random = np.random.default_rng(seed)
    image = Image.new("RGB", (width, height), tuple(int(v) for v in random.integers(150, 256, 3)))
    draw = ImageDraw.Draw(image)
    for _ in range(60):
        x, y, w, h = (int(v) for v in random.integers((0, 0, 6, 6), (width, height, 60, 60)))
        colour = tuple(int(v) for v in random.integers(0, 256, 3))
        (draw.rectangle if random.random() < 0.5 else draw.ellipse)((x, y, x + w, y + h), fill=colour)
    return image


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(width: int, height: int, depth: int, colour: int, rows: bytes, extra: bytes = b"") -> bytes:
    """A PNG of unfiltered rows; `colour` is 0 grey, 2 RGB, 4 grey with alpha, 6 RGBA."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    body = chunk(b"IHDR", header) + extra + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def deep_png(values: NDArray[np.uint16]) -> bytes:
    """A 16-bit RGB PNG of `(height, width, 3)` values."""
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    return png(values.shape[1], values.shape[0], 16, 2, rows)


def cmyk_profile(lab: tuple[int, int, int]) -> bytes:
    """A CMYK ICC profile where every ink makes one colour, given as 8-bit Lab (L * 2.55, a + 128, b + 128).

    All four together are black: the engine shifts colours if the darkest one is not. Paper is white by its own rule.
    """
    ramp = bytes(range(256))
    one = struct.pack(">i", 65536)
    matrix = b"".join(one if n % 4 == 0 else b"\0\0\0\0" for n in range(9))
    table = b"mft1\0\0\0\0" + bytes([4, 3, 2, 0]) + matrix + ramp * 4 + bytes(lab) * 15 + bytes([0, 128, 128]) + ramp * 3
    white = b"XYZ \0\0\0\0" + struct.pack(">iii", 63190, 65536, 54061)
    name = b"desc\0\0\0\0" + struct.pack(">I", 5) + b"test\0" + b"\0" * 78
    tags, data = b"", b""
    for key, value in ((b"desc", name), (b"wtpt", white), (b"A2B0", table)):
        value += b"\0" * (-len(value) % 4)
        tags += key + struct.pack(">II", 128 + 4 + 3 * 12 + len(data), len(value))
        data += value
    body = struct.pack(">I", 3) + tags + data
    head = struct.pack(">I", 128 + len(body)) + b"\0\0\0\0" + b"\x02\x40\0\0" + b"prtrCMYKLab " + b"\0" * 12 + b"acsp"
    head += b"\0" * 28 + struct.pack(">iii", 63190, 65536, 54061)
    return head.ljust(128, b"\0") + body
