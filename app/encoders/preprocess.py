"""Bytes to pixels, raw title to clean text. Training and serving share this file, so a photo has one vector.

Photos come from strangers: size is checked before anything is decoded, and every failure is an `InvalidImage`
or a `PayloadTooLarge` that says what to send instead.
"""

from __future__ import annotations

import html
import io
import re
import unicodedata
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import imagehash
import numpy as np
import scipy.fft
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from app.core.product import Photo, Pixels, Upload, is_unicode
from app.core.spec import Preprocessing
from app.errors import InvalidImage, InvalidTitle, PayloadTooLarge

FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "GIF", "BMP", "TIFF")
HASHED_SIDE = 32  # of the grey photo that a perceptual hash is made of

Box = tuple[float, float, float, float]  # left, upper, right, lower, in pixels

_WHITE = (255, 255, 255)
_ENTITY = re.compile(r"&(?:#[0-9]+|#[xX][0-9a-fA-F]+|[A-Za-z][A-Za-z0-9]*);")
_ESCAPED_BYTES = re.compile(r"(?:\\x[0-9a-fA-F]{2})+")

# A header that promises too many pixels is refused, not warned about.
warnings.simplefilter("error", Image.DecompressionBombWarning)


@dataclass(frozen=True, slots=True)
class InputLimits:
    """What is accepted: bytes and pixels of one photo, its shortest side, characters of a title."""

    image_bytes: int = 20 * 1024 * 1024
    image_pixels: int = 50_000_000
    image_side_px: int = 16
    title_chars: int = 2000


def open_image(data: bytes, limits: InputLimits) -> Image.Image:
    """Decodes a photo to upright 8-bit RGB.

    Handles EXIF orientation, CMYK (through its ICC profile if it has one), transparency (on white), 16-bit
    channels, palettes, and takes the first frame of an animation.

    Args:
        data: a JPEG, PNG, WebP, AVIF, GIF, BMP or TIFF file.
        limits: what is accepted.

    Raises:
        InvalidImage: not a photo in one of those formats, damaged, or smaller than `limits.image_side_px`.
        PayloadTooLarge: more bytes or pixels than the limits.
    """
    return opened(data, limits)[0]


def opened(data: bytes, limits: InputLimits) -> tuple[Image.Image, str]:
    """Returns and raises as `open_image` and `media_type`, for a file that is opened once."""
    if len(data) > limits.image_bytes:
        raise PayloadTooLarge(f"the photo has {len(data):,} bytes, at most {limits.image_bytes:,} are taken: scale it down.")
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            _check_size(image, limits)
            image.seek(0)
            image.load()
            kind = _media_type(image)
            ImageOps.exif_transpose(image, in_place=True)  # a copy costs as much as decoding, and waits for memory
            return _to_rgb(image), kind
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _too_many_pixels(limits) from error
    except UnidentifiedImageError as error:
        raise InvalidImage("this is not a photo: send a JPEG, PNG, WebP, AVIF, GIF, BMP or TIFF file.") from error
    except (InvalidImage, PayloadTooLarge):
        raise
    except Exception as error:  # decoders raise anything from OSError to struct.error on damaged files
        raise InvalidImage("the photo is damaged or cut off: send the complete file.") from error


def _check_size(image: Image.Image, limits: InputLimits) -> None:
    width, height = image.size
    if width * height > limits.image_pixels:
        raise _too_many_pixels(limits)
    if min(width, height) < limits.image_side_px:
        raise InvalidImage(
            f"the photo is {width} x {height} pixels, its shortest side must have {limits.image_side_px} or more."
        )


def _too_many_pixels(limits: InputLimits) -> PayloadTooLarge:
    return PayloadTooLarge(f"the photo has more than {limits.image_pixels:,} pixels: scale it down.")


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "CMYK":
        return _cmyk_to_rgb(image)
    if image.mode.startswith("I") or image.mode == "F":
        return _deep_to_rgb(image)
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        canvas = Image.new("RGBA", layer.size, (*_WHITE, 255))
        return Image.alpha_composite(canvas, layer).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")


def _cmyk_to_rgb(image: Image.Image) -> Image.Image:
    profile = image.info.get("icc_profile")
    if profile:
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            target = ImageCms.createProfile("sRGB")
            converted = ImageCms.profileToProfile(image, source, target, outputMode="RGB")
            if converted is not None:
                return converted
        except (ImageCms.PyCMSError, OSError):
            pass  # a broken profile must not cost the photo: convert without it
    return image.convert("RGB")


def _deep_to_rgb(image: Image.Image) -> Image.Image:
    values = np.nan_to_num(np.asarray(image, dtype=np.float64))
    # 16-bit greys fill 0..65535, floats often 0..1; other 32-bit files hold what they like, and fill their own range
    highest = float(values.max(initial=0))
    top = 65535.0 if image.mode.startswith("I;16") or 1 < highest <= 65535 else max(highest, 1.0)
    grey = np.clip(values / top * 255.0, 0, 255).astype(np.uint8)
    return Image.fromarray(grey).convert("RGB")


def frame(image: Image.Image, how: Preprocessing) -> Pixels:
    """Returns the tower's input, `(size, size, 3)` uint8 RGB, framed as the bundle says (bicubic, antialiased)."""
    size = (how.size, how.size)
    if how.framing == "pad":
        scale = how.size / max(image.size)
        inner = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        framed = Image.new("RGB", size, _WHITE)
        framed.paste(image.resize(inner, Image.Resampling.BICUBIC), ((how.size - inner[0]) // 2, (how.size - inner[1]) // 2))
    else:
        framed = image.resize(size, Image.Resampling.BICUBIC, box=box_of(image.size, how))
    return np.asarray(framed, dtype=np.uint8)


def box_of(size: tuple[int, int], how: Preprocessing) -> Box:
    """Returns what of a photo of that width and height fills the frame, where the framing is not `pad`."""
    if how.framing == "stretch":
        return 0, 0, *size
    share = how.crop_share / 2 * min(size)
    x, y = size[0] / 2, size[1] / 2
    return x - share, y - share, x + share, y + share


def read_photo(data: bytes, how: Preprocessing | None, limits: InputLimits, digest: str) -> tuple[Upload, Pixels]:
    """Decodes and frames a photo, and describes it for the catalog.

    Args:
        data: the file as it was sent.
        how: the framing of the image tower, None if there is none.
        limits: what is accepted.
        digest: SHA-256 of `data` in hexadecimal.

    Returns:
        The upload, and `(size, size, 3)` uint8 pixels (none if `how` is None).

    Raises:
        InvalidImage, PayloadTooLarge: as `open_image`.
    """
    upload, framed = read_framed(data, [how] if how else [], limits, digest)
    return upload, framed[0] if framed else np.zeros((0, 0, 3), np.uint8)


def read_framed(data: bytes, hows: Sequence[Preprocessing], limits: InputLimits, digest: str) -> tuple[Upload, list[Pixels]]:
    """Decodes a photo once and frames it in several ways; otherwise as `read_photo`."""
    image, kind = opened(data, limits)
    upload = Upload(data, Photo(digest, kind, image.width, image.height, perceptual_hash(image)))
    return upload, [frame(image, how) for how in hows]


def perceptual_hash(image: Image.Image) -> int:
    """Returns the 64-bit hash that `app.core.phash` compares."""
    return int(str(imagehash.phash(image)), 16)


def perceptual_hashes(greys: Pixels) -> list[int]:
    """Returns the hashes of photos that were resized already.

    Args:
        greys: `(n, HASHED_SIDE, HASHED_SIDE)` uint8, as `imagehash.phash` resizes them (Lanczos).
    """
    low = scipy.fft.dctn(greys.astype(np.float64), axes=(1, 2))[:, :8, :8].reshape(len(greys), 64)
    bits = low > np.median(low, axis=1, keepdims=True)
    return [int(row) for row in np.packbits(bits, axis=1).view(">u8")[:, 0]]


def media_type(data: bytes) -> str:
    """Returns the media type of a file that `open_image` accepted, from its content and not from its name."""
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        return _media_type(image)


def _media_type(image: Image.Image) -> str:
    kind = "JPEG" if image.format == "MPO" else image.format or ""
    return Image.MIME.get(kind, "application/octet-stream")


def clean_title(text: str, limits: InputLimits) -> str:
    r"""Returns the title as the tower reads it.

    Decodes literal `\xe2\x98\x85` escapes (671 Shopee titles have them) and HTML entities, applies Unicode NFKC,
    drops control characters and collapses white space.

    Raises:
        InvalidTitle: empty or blank, too long, with NUL characters or lone surrogates.
    """
    if len(text) > limits.title_chars:
        raise InvalidTitle(f"the title has {len(text):,} characters, at most {limits.title_chars:,} are taken: shorten it.")
    if "\0" in text or not is_unicode(text):
        raise InvalidTitle("the title holds NUL characters or broken Unicode: send plain UTF-8 text.")
    decoded = _ESCAPED_BYTES.sub(lambda found: _decode_escapes(found.group()), text)
    normal = unicodedata.normalize("NFKC", _ENTITY.sub(lambda found: html.unescape(found.group()), decoded))
    plain = normal.isascii() and normal.isprintable()  # as most titles are: nothing to look for
    printable = normal if plain else "".join(map(_visible, normal))
    clean = " ".join(printable.split())
    if not clean.strip(" \u200c\u200d"):
        raise InvalidTitle("the title is empty: leave the field out, or send some text.")
    return clean


def _decode_escapes(escaped: str) -> str:
    return bytes.fromhex(escaped.replace("\\x", "")).decode("utf-8", errors="replace")


def _visible(character: str) -> str:
    category = unicodedata.category(character)
    if category == "Cc" or character in "\u200b\ufeff":
        return " "
    return "" if category == "Cf" and character not in "\u200c\u200d" else character
