"""Photos that processes read and a device frames, against photos that are read one by one."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from app.core.spec import Preprocessing
from app.encoders.ahead import Outcome, ReadPhoto, in_threads
from app.encoders.framings import Framings
from app.encoders.photo_reader import BATCH, PhotoReader
from app.encoders.preprocess import InputLimits, read_framed
from app.encoders.raw_photos import LARGEST
from app.errors import AppError, EncodingFailed
from tests.unit import photos
from tests.unit.photos import saved

CPU = torch.device("cpu")
LIMITS = InputLimits()
SAMPLES = Path(__file__).parent.parent.parent / "samples" / "catalog"


def framing(size: int, how: str) -> Preprocessing:
    return Preprocessing(size=size, framing=how, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


def files() -> list[bytes]:
    """Real photos, odd ones, and some that cannot be used."""
    real = [file.read_bytes() for file in sorted(SAMPLES.iterdir())]
    turned = Image.Exif()
    turned[0x0112] = 6
    odd = [
        saved(photos.noise(1, 64, 64), "PNG"),
        saved(photos.noise(2, 33, 400), "JPEG", exif=turned),
        saved(photos.noise(3, 400, 33).convert("L"), "JPEG"),
        saved(photos.scene(4).convert("CMYK"), "JPEG"),
        saved(photos.scene(5).convert("RGBA"), "WEBP", lossless=True),
        saved(photos.scene(6), "GIF", save_all=True, append_images=[photos.scene(7)]),
        saved(photos.noise(8, LARGEST + 1, 700), "JPEG"),
    ]
    small = saved(photos.noise(9, 8, 8), "PNG")
    return [*real, b"no photo", *odd, real[0][: len(real[0]) // 2], small]


def one_by_one(framings: Framings) -> Callable[[bytes], ReadPhoto]:
    def read(data: bytes) -> ReadPhoto:
        upload, framed = read_framed(data, framings.kinds, LIMITS, hashlib.sha256(data).hexdigest())
        return upload, framings.pack(framed)

    return read


def told(outcome: Outcome) -> object:
    """What can be compared."""
    if isinstance(outcome, AppError):
        return type(outcome), str(outcome)
    upload, pixels = outcome
    return upload, pixels.shape, pixels.tobytes()


@pytest.mark.parametrize(
    "kinds",
    [[framing(64, "crop")], [framing(64, "crop"), framing(48, "stretch")], [framing(64, "pad")], []],
    ids=["one", "two", "padded", "none"],
)
def test_every_photo_is_read_as_it_is_alone(kinds: list[Preprocessing]) -> None:
    framings = Framings(kinds)
    given = files()
    chunks = [given[:5], [], given[5:], given[:1] * (BATCH + 3), []]
    found = list(PhotoReader(framings, LIMITS, CPU, processes=2)(chunks))
    wanted = list(in_threads(one_by_one(framings), chunks))
    assert [len(one) for one in found] == [len(one) for one in chunks]
    assert sum(isinstance(one, AppError) for chunk in found for one in chunk) >= 3
    assert [[told(one) for one in chunk] for chunk in found] == [[told(one) for one in chunk] for chunk in wanted]


class Deadly:
    """Limits that end the process which looks at them."""

    @property
    def image_bytes(self) -> int:
        os._exit(3)


def test_a_process_that_ends_is_an_error_that_says_what_to_do() -> None:
    reader = PhotoReader(Framings([framing(32, "crop")]), Deadly(), CPU, processes=1)  # type: ignore[arg-type]
    with pytest.raises(EncodingFailed, match="shared memory"):
        next(reader([[b"a photo"]]))
