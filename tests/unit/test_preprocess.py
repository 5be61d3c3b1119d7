from __future__ import annotations

import hashlib
import struct
import zlib
from typing import Literal

import imagehash
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from app.core.spec import Preprocessing
from app.encoders.preprocess import InputLimits, frame, media_type, open_image, perceptual_hash, read_photo
from app.errors import InvalidImage, PayloadTooLarge
from tests.unit.photos import SIDE, chunk, cmyk_profile, corners, deep_png, noise, png, quarters, saved

LIMITS = InputLimits()
SMALL = InputLimits(image_bytes=4096, image_pixels=10_000, image_side_px=16)
RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)
UPRIGHT = [RED, GREEN, BLUE, WHITE]
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE, 8: Image.Transpose.ROTATE_270,
}  # fmt: skip
JPEG = saved(noise(1), "JPEG", quality=80)


def how(framing: Literal["crop", "pad", "stretch"], size: int = 32, crop_share: float = 1.0) -> Preprocessing:
    return Preprocessing(size=size, framing=framing, crop_share=crop_share, mean=(0, 0, 0), std=(1, 1, 1))


def opened(data: bytes, limits: InputLimits = LIMITS) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    image = open_image(data, limits)
    assert image.mode == "RGB"
    return np.asarray(image)


def colour_of(data: bytes) -> tuple[int, ...]:
    return tuple(int(v) for v in opened(data).reshape(-1, 3).mean(axis=0).round())


# -- what is taken --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("PNG", {}), ("BMP", {}), ("TIFF", {}), ("TIFF", {"compression": "tiff_lzw"}), ("WEBP", {"lossless": True}),
        ("GIF", {}), ("JPEG", {"quality": 95, "subsampling": 0}), ("WEBP", {"quality": 95}), ("AVIF", {"quality": 95}),
        ("JPEG", {"progressive": True, "quality": 95, "subsampling": 0}),
    ],
)  # fmt: skip
def test_a_photo_is_read_in_every_format(kind: str, options: dict[str, object]) -> None:
    found = corners(opened(saved(quarters(), kind, **options)))
    np.testing.assert_allclose(found, UPRIGHT, atol=12)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_every_exif_orientation_gives_the_same_upright_pixels(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    turned = quarters().transpose(TURNS[orientation]) if orientation > 1 else quarters()
    found = corners(opened(saved(turned, kind, exif=exif)))
    np.testing.assert_allclose(found, UPRIGHT, atol=40)


@pytest.mark.parametrize(
    "exif", [b"Exif\0\0garbage", b"Exif\0\0MM\0*\xff\xff\xff\xff", b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + b"\x12\x01" * 30]
)
@pytest.mark.filterwarnings("ignore")
def test_broken_exif_does_not_cost_the_photo(exif: bytes) -> None:
    found = corners(opened(saved(quarters(), "JPEG", exif=exif, quality=95, subsampling=0)))
    np.testing.assert_allclose(found, UPRIGHT, atol=12)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_of_an_animation_the_first_frame_counts(kind: str) -> None:
    frames = [Image.new("RGB", (SIDE, SIDE), colour) for colour in (RED, GREEN, BLUE)]
    data = saved(frames[0], kind, save_all=True, append_images=frames[1:], duration=50)
    np.testing.assert_allclose(colour_of(data), RED, atol=3)


def test_of_a_multi_picture_jpeg_the_first_picture_counts() -> None:
    frames = [Image.new("RGB", (SIDE, SIDE), colour) for colour in (RED, GREEN)]
    data = saved(frames[0], "MPO", save_all=True, append_images=frames[1:])
    np.testing.assert_allclose(colour_of(data), RED, atol=3)
    assert media_type(data) == "image/jpeg"  # what phones write, and what browsers know it as


def test_transparency_is_shown_on_white() -> None:
    half_red = Image.new("RGBA", (SIDE, SIDE), (255, 0, 0, 128))
    assert colour_of(saved(Image.new("RGBA", (SIDE, SIDE), (255, 0, 0, 0)), "PNG")) == WHITE
    np.testing.assert_allclose(colour_of(saved(half_red, "PNG")), (255, 127, 127), atol=1)
    np.testing.assert_allclose(colour_of(saved(half_red, "WEBP", lossless=True)), (255, 127, 127), atol=1)


def test_grey_with_alpha_is_shown_on_white() -> None:
    assert colour_of(saved(Image.new("LA", (SIDE, SIDE), (0, 0)), "PNG")) == WHITE
    assert colour_of(saved(Image.new("LA", (SIDE, SIDE), (90, 255)), "PNG")) == (90, 90, 90)


@pytest.mark.parametrize("kind", ["PNG", "GIF"])
def test_a_palette_with_a_transparent_colour_is_shown_on_white(kind: str) -> None:
    image = Image.new("P", (SIDE, SIDE), 1)
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.paste(0, (0, 0, SIDE // 2, SIDE))
    found = corners(opened(saved(image, kind, transparency=0)))
    assert found == [WHITE, BLUE, WHITE, BLUE]


def test_a_palette_with_a_table_of_alphas_is_shown_on_white() -> None:
    image = Image.new("P", (SIDE, SIDE), 0)
    image.putpalette([255, 0, 0, 0, 0, 255])
    np.testing.assert_allclose(colour_of(saved(image, "PNG", transparency=bytes([128, 255]))), (255, 127, 127), atol=1)


@pytest.mark.parametrize(("mode", "fill", "expected"), [("1", 1, WHITE), ("L", 90, (90, 90, 90)), ("P", 0, RED)])
def test_images_of_few_colours_become_rgb(mode: str, fill: int, expected: tuple[int, int, int]) -> None:
    image = Image.new(mode, (SIDE, SIDE), fill)
    if mode == "P":
        image.putpalette(RED)
    assert colour_of(saved(image, "PNG")) == expected


@pytest.mark.parametrize(("value", "expected"), [(0, 0), (256, 0), (32768, 127), (65535, 255)])
def test_a_16_bit_grey_png_keeps_its_brightness(value: int, expected: int) -> None:
    data = saved(Image.fromarray(np.full((SIDE, SIDE), value, np.uint16)), "PNG")
    np.testing.assert_allclose(colour_of(data), [expected] * 3, atol=1)


def test_a_16_bit_grey_tiff_keeps_its_brightness() -> None:
    data = saved(Image.fromarray(np.full((SIDE, SIDE), 32768, np.uint16)), "TIFF")
    np.testing.assert_allclose(colour_of(data), [127] * 3, atol=1)


def test_a_16_bit_rgb_png_keeps_its_colours() -> None:
    values = np.tile(np.array([65535, 32768, 0], np.uint16), (SIDE, SIDE, 1))
    np.testing.assert_allclose(colour_of(deep_png(values)), (255, 128, 0), atol=1)


@pytest.mark.parametrize(("colour", "pixel"), [(4, [0, 0]), (6, [65535, 0, 0, 0])])
def test_a_16_bit_png_with_alpha_is_shown_on_white(colour: int, pixel: list[int]) -> None:
    row = b"\0" + np.array(pixel * SIDE, ">u2").tobytes()
    assert colour_of(png(SIDE, SIDE, 16, colour, row * SIDE)) == WHITE


def test_a_floating_point_tiff_is_not_read_as_black() -> None:
    values = np.tile(np.linspace(0, 1, SIDE, dtype=np.float32), (SIDE, 1))
    found = opened(saved(Image.fromarray(values), "TIFF"))
    assert int(found.min()) < 10
    assert int(found.max()) > 245


def test_a_cmyk_jpeg_without_a_profile_keeps_its_colours() -> None:
    data = saved(Image.new("CMYK", (SIDE, SIDE), (255, 255, 0, 0)), "JPEG", quality=95)
    np.testing.assert_allclose(colour_of(data), BLUE, atol=4)


def test_a_cmyk_jpeg_is_converted_by_its_profile() -> None:
    ink = Image.new("CMYK", (SIDE, SIDE), (0, 0, 0, 255))  # black, which this profile calls a middle grey
    data = saved(ink, "JPEG", icc_profile=cmyk_profile((137, 128, 128)))
    np.testing.assert_allclose(colour_of(data), [128] * 3, atol=4)


@pytest.mark.parametrize("profile", [b"garbage", b"\0" * 200, cmyk_profile((137, 128, 128))[:300]])
@pytest.mark.parametrize("mode", ["CMYK", "RGB"])
def test_a_broken_colour_profile_does_not_cost_the_photo(mode: str, profile: bytes) -> None:
    data = saved(Image.new(mode, (SIDE, SIDE)), "JPEG", icc_profile=profile, quality=95)
    np.testing.assert_allclose(colour_of(data), WHITE if mode == "CMYK" else (0, 0, 0), atol=4)


def test_a_profile_of_another_colour_space_does_not_cost_the_photo() -> None:
    from PIL import ImageCms

    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    data = saved(Image.new("CMYK", (SIDE, SIDE)), "JPEG", icc_profile=srgb, quality=95)
    np.testing.assert_allclose(colour_of(data), WHITE, atol=4)


# -- what is refused ------------------------------------------------------------------------------------------

SVG = b'<svg xmlns="http://www.w3.org/2000/svg" width="40" height="40"><rect width="40" height="40"/></svg>'
PDF = saved(quarters(), "PDF")
NO_PHOTOS = {
    "nothing": b"",
    "text": b"hello " * 100,
    "zeros": bytes(5000),
    "svg": SVG,
    "svg with a prolog": b"<?xml version='1.0'?>" + SVG,
    "pdf": PDF,
    "ppm": saved(quarters(), "PPM"),
    "ico": saved(quarters(), "ICO"),
    "tga": saved(quarters(), "TGA"),
    "eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 40 40\n%%EndComments\n",
    "jpeg magic": JPEG[:3],
    "png magic": b"\x89PNG\r\n\x1a\n",
}


@pytest.mark.parametrize("data", NO_PHOTOS.values(), ids=NO_PHOTOS.keys())
def test_a_file_that_is_no_photo_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidImage):
        open_image(data, LIMITS)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_a_photo_that_is_cut_off_is_refused(kind: str, share: float) -> None:
    data = saved(noise(2), kind)
    with pytest.raises(InvalidImage):
        open_image(data[: int(len(data) * share)], LIMITS)


def test_a_png_with_a_wrong_checksum_is_refused() -> None:
    data = bytearray(saved(noise(3), "PNG"))
    data[len(data) // 2] ^= 1
    with pytest.raises(InvalidImage):
        open_image(bytes(data), LIMITS)


@pytest.mark.parametrize("size", [(1, 1), (15, 40), (40, 15)])
def test_a_photo_with_a_side_that_is_too_short_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(InvalidImage, match=f"{size[0]} x {size[1]}"):
        open_image(saved(Image.new("RGB", size), "PNG"), LIMITS)


def test_the_shortest_allowed_side_is_taken() -> None:
    assert open_image(saved(Image.new("RGB", (16, 16)), "PNG"), LIMITS).size == (16, 16)


@pytest.mark.parametrize("side", [7100, 12_000, 30_000, 2**31 - 1])
def test_a_header_that_promises_too_many_pixels_is_refused_before_decoding(side: int) -> None:
    with pytest.raises(PayloadTooLarge, match="pixels"):
        open_image(png(side, side, 8, 2, b"\0" * 100), LIMITS)


def test_too_many_pixels_are_refused_whatever_other_code_does_to_warnings() -> None:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(PayloadTooLarge, match="pixels"):
            open_image(png(12_000, 12_000, 8, 2, b"\0" * 100), LIMITS)


def test_the_limits_are_inclusive() -> None:
    data = saved(Image.new("RGB", (100, 100)), "PNG")
    exact = InputLimits(image_bytes=len(data), image_pixels=10_000, image_side_px=100)
    assert open_image(data, exact).size == (100, 100)
    with pytest.raises(PayloadTooLarge, match="bytes"):
        open_image(data + b"\0", exact)
    with pytest.raises(PayloadTooLarge, match="pixels"):
        open_image(saved(Image.new("RGB", (101, 100)), "PNG"), SMALL)


def test_a_compressed_text_bomb_in_a_png_is_refused() -> None:
    bomb = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(b"a" * 80_000_000))
    with pytest.raises((InvalidImage, PayloadTooLarge)):
        open_image(png(SIDE, SIDE, 8, 0, (b"\0" + bytes(SIDE)) * SIDE, bomb), LIMITS)


@settings(max_examples=150)
@given(st.binary(max_size=600))
@pytest.mark.filterwarnings("ignore")
def test_random_bytes_are_refused(data: bytes) -> None:
    with pytest.raises((InvalidImage, PayloadTooLarge)):
        open_image(data, SMALL)


@settings(max_examples=200)
@given(
    st.sampled_from([saved(noise(4), kind) for kind in ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP")]),
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=8),
    st.floats(0, 1),
)
@pytest.mark.filterwarnings("ignore")
def test_a_damaged_photo_is_read_or_refused_but_never_breaks_anything(
    photo: bytes, changes: list[tuple[float, int]], kept: float
) -> None:
    data = bytearray(photo)
    for place, value in changes:
        data[int(place * len(data))] = value
    try:
        upload, pixels = read_photo(bytes(data[: int(len(data) * kept) + 1]), how("pad"), LIMITS, "0" * 64)
    except (InvalidImage, PayloadTooLarge):
        return
    assert pixels.shape == (32, 32, 3)
    assert upload.photo.media_type.startswith("image/")


@settings(max_examples=300)
@given(st.lists(st.tuples(st.integers(0, len(JPEG) - 1), st.integers(0, 255)), max_size=12), st.integers(1, len(JPEG)))
@pytest.mark.filterwarnings("ignore")
def test_a_damaged_jpeg_is_read_or_refused(changes: list[tuple[int, int]], kept: int) -> None:
    data = bytearray(JPEG)
    for place, value in changes:
        data[place] = value
    try:
        pixels = opened(bytes(data[:kept]), SMALL)
    except (InvalidImage, PayloadTooLarge):
        return
    assert pixels.dtype == np.uint8


# -- framing --------------------------------------------------------------------------------------------------


def striped(wide: bool) -> Image.Image:
    """A 3:1 photo: red, green and blue squares along its long side."""
    image = Image.new("RGB", (96, 32))
    for n, colour in enumerate((RED, GREEN, BLUE)):
        image.paste(colour, (n * 32, 0, n * 32 + 32, 32))
    return image if wide else image.transpose(Image.Transpose.TRANSPOSE)


def along(image: Image.Image, framing: Preprocessing, wide: bool) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """The framed pixels, turned so that the photo's long side runs along the rows."""
    pixels = frame(image, framing)
    assert pixels.shape == (framing.size, framing.size, 3)
    assert pixels.dtype == np.uint8
    return pixels if wide else pixels.transpose(1, 0, 2)


@pytest.mark.parametrize("wide", [True, False])
def test_crop_keeps_the_middle_square(wide: bool) -> None:
    pixels = along(striped(wide), how("crop", 64), wide)
    assert (pixels[:, 4:-4] == GREEN).all()


@pytest.mark.parametrize("wide", [True, False])
def test_crop_with_a_share_keeps_that_share_of_the_short_side(wide: bool) -> None:
    image = Image.new("RGB", (192, 64), RED)
    image.paste(GREEN, (80, 16, 112, 48))  # the middle half of the short side
    pixels = along(image if wide else image.transpose(Image.Transpose.TRANSPOSE), how("crop", 64, 0.5), wide)
    assert (pixels[4:-4, 4:-4] == GREEN).all()


@pytest.mark.parametrize("wide", [True, False])
def test_pad_keeps_the_whole_photo_on_white(wide: bool) -> None:
    pixels = along(striped(wide), how("pad", 96), wide)
    assert (pixels[:31] == WHITE).all()
    assert (pixels[65:] == WHITE).all()
    np.testing.assert_array_equal(pixels[48, [16, 48, 80]], [RED, GREEN, BLUE])


@pytest.mark.parametrize("wide", [True, False])
def test_stretch_fills_the_square_with_the_whole_photo(wide: bool) -> None:
    pixels = along(striped(wide), how("stretch", 96), wide)
    np.testing.assert_array_equal(pixels[0, [16, 48, 80]], [RED, GREEN, BLUE])
    np.testing.assert_array_equal(pixels[95, [16, 48, 80]], [RED, GREEN, BLUE])


@pytest.mark.parametrize("framing", ["crop", "pad", "stretch"])
@pytest.mark.parametrize("size", [(16, 16), (17, 31), (16, 8000), (8000, 16), (101, 99)])
def test_a_photo_of_any_proportions_is_framed(framing: Literal["crop", "pad", "stretch"], size: tuple[int, int]) -> None:
    _, pixels = read_photo(saved(Image.new("RGB", size, BLUE), "PNG"), how(framing), LIMITS, "")
    assert pixels.shape == (32, 32, 3)
    assert (pixels == BLUE).all(axis=2).any()


def test_a_square_photo_of_the_right_size_is_left_as_it_is() -> None:
    image = noise(5, 32, 32)
    for framing in (how("crop"), how("pad"), how("stretch")):
        np.testing.assert_array_equal(frame(image, framing), np.asarray(image))


# -- what the catalog is told ---------------------------------------------------------------------------------


def test_a_photo_is_described_as_it_is_shown_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = saved(Image.new("RGB", (40, 20)), "JPEG", exif=exif)
    upload, _ = read_photo(data, how("pad"), LIMITS, hashlib.sha256(data).hexdigest())
    assert upload.data == data
    assert (upload.photo.width, upload.photo.height, upload.photo.media_type) == (20, 40, "image/jpeg")
    assert upload.photo.sha256 == hashlib.sha256(data).hexdigest()


def test_without_an_image_tower_a_photo_is_checked_but_makes_no_pixels() -> None:
    assert read_photo(JPEG, None, LIMITS, "")[1].shape == (0, 0, 3)
    with pytest.raises(InvalidImage):
        read_photo(b"no photo", None, LIMITS, "")


@pytest.mark.parametrize(
    ("kind", "expected"), [("JPEG", "image/jpeg"), ("PNG", "image/png"), ("WEBP", "image/webp"), ("AVIF", "image/avif"),
                           ("GIF", "image/gif"), ("BMP", "image/bmp"), ("TIFF", "image/tiff")]
)  # fmt: skip
def test_the_media_type_comes_from_the_content(kind: str, expected: str) -> None:
    assert media_type(saved(quarters(), kind)) == expected


def test_the_crafted_header_has_a_right_checksum() -> None:
    data = png(30_000, 30_000, 8, 2, b"")
    assert struct.unpack(">II", data[16:24]) == (30_000, 30_000)
    assert struct.unpack(">I", data[29:33])[0] == zlib.crc32(data[12:29])


@given(st.integers(16, 80), st.integers(16, 80), st.integers(0, 2**32 - 1), st.booleans())
def test_pixels_are_those_of_numpy_and_hashes_those_of_imagehash(width: int, height: int, seed: int, flat: bool) -> None:
    draw = np.random.default_rng(seed)
    photo = draw.integers(0, 256, (1 if flat else height, 1 if flat else width, 3), dtype=np.uint8)
    image = Image.fromarray(np.ascontiguousarray(np.broadcast_to(photo, (height, width, 3))))
    how = Preprocessing(size=48, framing="stretch", mean=(0.5,) * 3, std=(0.5,) * 3)
    np.testing.assert_array_equal(frame(image, how), np.asarray(image.resize((48, 48), Image.Resampling.BICUBIC)))
    assert perceptual_hash(image) == int(str(imagehash.phash(image)), 16)
