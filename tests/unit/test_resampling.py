"""Resizing on a device against Pillow, pixel for pixel."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from app.encoders.raw_photos import Cuts, cut
from app.encoders.resampling import BICUBIC, LANCZOS, Kernel, resized


def upright(cuts: Cuts, size: int, kernel: Kernel) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """The photos, resized."""
    found = resized(cuts.pixels, torch.from_numpy(cuts.sides), torch.from_numpy(cuts.boxes), size, kernel).numpy()
    found[cuts.turned] = found[cuts.turned].transpose(0, 2, 1, 3)
    return found


FILTERS = {BICUBIC: Image.Resampling.BICUBIC, LANCZOS: Image.Resampling.LANCZOS}


def noise(seed: int, width: int, height: int, mode: str = "RGB") -> Image.Image:
    shape = (height, width, 3) if mode == "RGB" else (height, width)
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, np.uint8))


@given(
    sides=st.lists(st.tuples(st.integers(16, 300), st.integers(16, 300)), min_size=1, max_size=4),
    share=st.floats(0.05, 1),
    size=st.sampled_from([16, 32, 57]),
    kernel=st.sampled_from([BICUBIC, LANCZOS]),
    mode=st.sampled_from(["RGB", "L"]),
)
@settings(max_examples=60, deadline=None)
def test_photos_of_any_size_are_resized_as_pillow_does(
    sides: list[tuple[int, int]], share: float, size: int, kernel: Kernel, mode: str
) -> None:
    images = [noise(number, *one, mode) for number, one in enumerate(sides)]
    boxes = [(w * (1 - share) / 2, h * (1 - share) / 3, w * (1 + share) / 2, h * (2 + share) / 3) for w, h in sides]
    cuts = cut(images, boxes, size, kernel)
    for image, box, one in zip(images, boxes, upright(cuts, size, kernel), strict=True):
        wanted = np.asarray(image.resize((size, size), FILTERS[kernel], box=box))
        np.testing.assert_array_equal(one.reshape(wanted.shape), wanted)


@pytest.mark.parametrize("side", [(300, 40), (40, 300), (64, 64)])
def test_a_photo_that_already_has_the_size_and_long_ones(side: tuple[int, int]) -> None:
    image = noise(0, *side)
    cuts = cut([image], [(0, 0, *side)], 64, BICUBIC)
    wanted = np.asarray(image.resize((64, 64), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(upright(cuts, 64, BICUBIC)[0], wanted)


def test_only_what_the_box_touches_is_taken() -> None:
    cuts = cut([noise(0, 400, 300)], [(100, 100, 200, 200)], 100, BICUBIC)
    assert cuts.pixels.shape == (1, 104, 104, 3)
    assert cuts.boxes.tolist() == [[2, 2, 102, 102]]


def test_no_photo_at_all() -> None:
    cuts = cut([], [], 32, LANCZOS)
    assert upright(cuts, 32, LANCZOS).shape == (0, 32, 32, 1)
