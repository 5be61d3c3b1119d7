"""What processes make of photo files when a GPU frames them: decoded, and cut to what framings and hash look at."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from math import ceil, floor
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from app.core.product import Pixels
from app.core.spec import Preprocessing
from app.encoders.preprocess import HASHED_SIDE, Box, InputLimits, box_of, frame, opened, perceptual_hash
from app.encoders.resampling import BICUBIC, LANCZOS, Kernel
from app.errors import AppError

LARGEST = 800  # pixels of a side, as most shops have: larger photos would make all others of their batch as large


class Cuts(NamedTuple):
    """Parts of `n` photos, and where in them lies what is wanted.

    Attributes:
        pixels: `(n, height, width, channels)` uint8; each part fills its upper left corner.
        sides: `(n, 2)` int64, height and width of each part.
        boxes: `(n, 4)` float32 in the part: left, upper, right, lower.
        turned: `(n,)` bool: the part is transposed, as Pillow resizes this photo downwards first.
    """

    pixels: Tensor  # goes through shared memory, which costs a call to another thread
    sides: NDArray[np.int64]
    boxes: NDArray[np.float32]
    turned: NDArray[np.bool_]


class Seen(NamedTuple):
    """What is known of a photo, see `app.core.product.Photo`; a tuple, since those are sent ten times as fast.

    `framed` are its frames if it needs no GPU: it is too large, or framed in a way that is not resizing alone.
    """

    sha256: str
    media_type: str
    width: int
    height: int
    phash: int | None = None
    framed: list[Pixels] | None = None


class RawPhotos(NamedTuple):
    """A batch of files, read.

    Attributes:
        found: for each file the photo, or why it cannot be used.
        frames: those photos that are not framed yet, for each framing.
        greys: the same photos in grey, for their hashes.
    """

    found: list[Seen | AppError]
    frames: list[Cuts]
    greys: Cuts


class RawDataset(Dataset[RawPhotos]):
    """Files -> `RawPhotos`, in the processes of a `DataLoader`."""

    def __init__(self, kinds: Sequence[Preprocessing], limits: InputLimits) -> None:
        """See `app.encoders.framings.Framings.kinds`."""
        self._kinds, self._limits = kinds, limits

    def __getitems__(self, files: Sequence[bytes]) -> RawPhotos:
        """Reads a batch of files; the loader gives its indices, which here are the files themselves."""
        return read_raw(files, self._kinds, self._limits)


def read_raw(files: Sequence[bytes], kinds: Sequence[Preprocessing], limits: InputLimits) -> RawPhotos:
    """Decodes files; one that cannot be used fails alone."""
    boxes_known = all(how.framing != "pad" for how in kinds)
    found: list[Seen | AppError] = []
    images: list[Image.Image] = []
    for data in files:
        try:
            image, kind = opened(data, limits)
        except AppError as error:
            found.append(error)
            continue
        photo = Seen(hashlib.sha256(data).hexdigest(), kind, image.width, image.height)
        if boxes_known and max(image.size) <= LARGEST:
            found.append(photo)
            images.append(image)
        else:
            framed = [frame(image, how) for how in kinds]
            found.append(photo._replace(phash=perceptual_hash(image), framed=framed))
    frames = [cut(images, [box_of(one.size, how) for one in images], how.size, BICUBIC) for how in kinds]
    greys = [one.convert("L") for one in images]
    return RawPhotos(found, frames, cut(greys, [(0, 0, *one.size) for one in greys], HASHED_SIDE, LANCZOS))


def cut(images: Sequence[Image.Image], boxes: Sequence[Box], size: int, kernel: Kernel) -> Cuts:
    """Cuts out of each image what resizing its box to `size` looks at."""
    parts: list[Pixels] = []
    places: list[Box] = []
    turned: list[bool] = []
    for image, box in zip(images, boxes, strict=True):
        # Pillow computes with boxes in float32
        left, upper, right, lower = (float(edge) for edge in np.array(box, np.float32))
        x0, x1 = _reach(left, right, image.width, size, kernel)
        y0, y1 = _reach(upper, lower, image.height, size, kernel)
        part = np.asarray(image.crop((x0, y0, x1, y1)))
        part = part.reshape(*part.shape[:2], -1)
        # what Pillow 12 and 13 do with photos that shrink more in height than in width: Resample.c
        down_first = image.height - size > max(0, 2 * (image.width - size))
        turned.append(down_first)
        parts.append(part.transpose(1, 0, 2) if down_first else part)
        place = (left - x0, upper - y0, right - x0, lower - y0)
        places.append((place[1], place[0], place[3], place[2]) if down_first else place)
    return _stacked(parts, places, turned)


def _reach(start: float, end: float, length: int, size: int, kernel: Kernel) -> tuple[int, int]:
    """Returns from where to where, in `length` pixels, resizing from `start` to `end` looks."""
    margin = kernel.reach * max(1.0, (end - start) / size)
    return max(0, floor(start - margin)), min(length, ceil(end + margin))


def _stacked(parts: Sequence[Pixels], boxes: Sequence[Box], turned: Sequence[bool]) -> Cuts:
    sides = np.array([part.shape[:2] for part in parts], np.int64).reshape(-1, 2)
    height, width = sides.max(axis=0, initial=0)

    def padded(part: Pixels) -> Tensor:
        whole = np.empty((height, width, part.shape[2]), np.uint8)
        whole[: part.shape[0], : part.shape[1]] = part
        return torch.from_numpy(whole)

    # in a loader's process, torch puts them into shared memory as it joins them
    pixels: Tensor = (
        default_collate([padded(part) for part in parts]) if parts else torch.empty((0, 0, 0, 1), dtype=torch.uint8)
    )
    return Cuts(pixels[: len(parts)], sides, np.array(boxes, np.float32).reshape(-1, 4), np.array(turned, np.bool_))
