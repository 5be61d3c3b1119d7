"""Two photos under one map: copies are found whatever was done to them, look-alikes are not."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from app.core.product import Pixels
from app.encoders.alignment import (
    COPY_SIDE_PX,
    FEATURES,
    SAME_PICTURE,
    SIDE_PX,
    Alignment,
    Keypoints,
    align,
    keypoints_of,
    read_keypoints,
)
from app.encoders.preprocess import InputLimits
from app.errors import InvalidImage, PayloadTooLarge
from tests.unit.photos import noise, saved, scene

LIMITS = InputLimits()


def of(image: Image.Image) -> Keypoints:
    return read_keypoints(np.asarray(image, dtype=np.uint8))


def framed(image: Image.Image) -> Image.Image:
    canvas = Image.new("RGB", (image.width + 120, image.height + 90), (200, 30, 30))
    canvas.paste(image, (70, 30))
    return canvas


def badged(image: Image.Image) -> Image.Image:
    changed = image.copy()
    ImageDraw.Draw(changed).ellipse((5, 5, 75, 75), fill=(255, 220, 0))
    return changed


EDITS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "again": lambda image: image,
    "cropped": lambda image: image.crop((50, 40, 270, 220)),
    "half as large": lambda image: image.resize((150, 120)),
    "framed": framed,
    "badge": badged,
    "turned": lambda image: image.rotate(20, fillcolor="white"),
    "upside down": lambda image: image.transpose(Image.Transpose.ROTATE_180),
    "darker": lambda image: image.point([round(0.8 * value) for value in range(256)] * 3),
}


@pytest.mark.parametrize("edit", EDITS)
@pytest.mark.parametrize("mirrored", [False, True])
def test_an_edited_copy_is_the_same_picture(edit: str, mirrored: bool) -> None:
    original = scene(1)
    copy = EDITS[edit](original)
    copy = copy.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirrored else copy
    found = align(of(original), of(copy))
    assert found.same_picture
    assert not found.recoloured
    assert found.mirrored == mirrored
    assert found.inliers >= 30
    assert found.coverage > 0.6


@pytest.mark.parametrize("seed", range(2, 8))
def test_another_picture_is_not(seed: int) -> None:
    found = align(of(scene(1)), of(scene(seed)))
    assert not found.same_picture
    assert not found.recoloured
    assert found.score < 0.5


def test_the_same_picture_in_another_colour_lies_over_it_but_is_not_the_same() -> None:
    original = scene(1)
    sibling = original.copy()
    ImageDraw.Draw(original).rectangle((90, 70, 200, 170), fill=(40, 70, 190))
    ImageDraw.Draw(sibling).rectangle((90, 70, 200, 170), fill=(190, 60, 40))
    found = align(of(original), of(sibling))
    assert found.coverage > 0.6
    assert found.colour_gap > 40
    assert found.recoloured
    assert not found.same_picture


def test_a_picture_that_is_a_small_part_of_another_is_covered() -> None:
    canvas = scene(9, 320, 320)
    canvas.paste(scene(1).resize((200, 160)), (10, 20))
    found = align(of(scene(1)), of(canvas))
    assert found.same_picture
    assert found.coverage > 0.6


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 5), st.integers(0, 5), st.booleans())
def test_order_does_not_matter_and_every_time_is_the_same(left: int, right: int, mirrored: bool) -> None:
    first = of(scene(left))
    other = scene(right).crop((20, 10, 280, 230))
    second = of(other.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if mirrored else other)
    found = align(first, second)
    assert found == align(second, first) == align(first, second)
    assert found.same_picture == (left == right)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 70), st.integers(1, 70), st.integers(0, 3), st.sampled_from(["blank", "noise", "stripes"]))
def test_no_photo_is_too_odd(width: int, height: int, seed: int, kind: str) -> None:
    pixels: Pixels = np.full((height, width, 3), 60 * seed, np.uint8)
    if kind == "noise":
        pixels = np.asarray(noise(seed, width, height), np.uint8)
    elif kind == "stripes":
        pixels[:, :: seed + 2] = 255
    odd = read_keypoints(pixels)
    for found in (align(odd, odd), align(odd, of(scene(1))), align(of(scene(1)), odd)):
        assert 0 <= found.inliers <= found.matched <= FEATURES
        assert all(math.isfinite(value) for value in (found.share, found.coverage, found.colour_gap, found.score))
        assert 0 <= found.share <= 1
        assert 0 <= found.coverage <= 1
        assert 0 <= found.score <= 1


@pytest.mark.parametrize(("width", "height"), [(1, 4000), (4000, 1), (16, 2000), (3000, 2000), (0, 0), (0, 5)])
def test_size_is_bounded_for_any_proportions(width: int, height: int) -> None:
    photo = read_keypoints(np.zeros((height, width, 3), np.uint8))
    assert max(photo.size) <= SIDE_PX
    assert max(photo.copy.shape[:2]) <= COPY_SIDE_PX
    assert align(photo, photo) == Alignment()


def test_what_is_kept_is_small_and_in_its_bounds() -> None:
    busy = of(noise(3, 90, 70).resize((900, 700), Image.Resampling.BICUBIC))
    assert len(busy) == FEATURES
    assert busy.nbytes <= 90_000
    assert busy.size == (SIDE_PX, round(SIDE_PX * 7 / 9))
    assert busy.places.min() >= 0
    assert (busy.places < busy.size).all()


def test_a_file_has_the_features_of_its_pixels_and_is_turned_upright() -> None:
    image = scene(1)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter clockwise
    lying = image.transpose(Image.Transpose.ROTATE_90)
    upright = keypoints_of(saved(lying, "PNG", exif=exif), LIMITS)
    np.testing.assert_array_equal(upright.places, of(image).places)
    np.testing.assert_array_equal(upright.copy, of(image).copy)


def test_errors_of_files_are_those_of_every_photo() -> None:
    with pytest.raises(InvalidImage):
        keypoints_of(b"no photo", LIMITS)
    with pytest.raises(InvalidImage):
        keypoints_of(saved(Image.new("RGB", (15, 40)), "PNG"), LIMITS)
    with pytest.raises(PayloadTooLarge):
        keypoints_of(saved(scene(1), "PNG"), InputLimits(image_pixels=1000))


def test_the_score_rises_with_the_evidence_and_falls_with_the_gap() -> None:
    few = Alignment(inliers=8, matched=20, share=0.1, coverage=0.3, colour_gap=5)
    more = Alignment(inliers=40, matched=50, share=0.5, coverage=0.3, colour_gap=5)
    wider = Alignment(inliers=40, matched=50, share=0.5, coverage=0.8, colour_gap=5)
    recoloured = Alignment(inliers=40, matched=50, share=0.5, coverage=0.8, colour_gap=60)
    assert few.score < more.score < wider.score
    assert recoloured.score < few.score
    assert wider.same_picture
    assert wider.score >= SAME_PICTURE > recoloured.score
    assert Alignment(inliers=7, matched=7, share=1, coverage=1).score == 0
