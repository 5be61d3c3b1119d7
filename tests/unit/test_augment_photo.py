from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest
from PIL import Image, ImageDraw
from scipy import ndimage

from app.errors import InvalidInput
from app.training.augment import photo_edits
from app.training.augment.phone_edits import cut_out
from app.training.augment.photo import (
    EDITS,
    GRAPHICS,
    MAX_SIDE_PX,
    MIN_SIDE_PX,
    PHONE_EDITS,
    SELLER_EDITS,
    PhotoAugmentation,
    augment,
)
from tests.unit.photos import noise

ALL = [one.name for one in fields(PhotoAugmentation) if one.name not in {"strength", "phone", "phone_graphics"}]
EVERYTHING = PhotoAugmentation(phone=1, phone_graphics=1, **dict.fromkeys(ALL, 1.0))
SIZES = [(60, 80), (80, 60), (256, 256), (300, 97), (32, 32)]


def dice(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def scene(size: tuple[int, int] = (160, 200), seed: int = 1) -> Image.Image:
    """A shelf: coarse coloured patches right up to the edges, so that every shift shows."""
    return noise(seed, 9, 11).resize(size, Image.Resampling.BICUBIC)


def studio(colour: tuple[int, int, int] = (200, 30, 40), size: tuple[int, int] = (160, 200)) -> Image.Image:
    """A pack with a white label in the middle of a white background."""
    image = Image.new("RGB", size, "white")
    w, h = size
    draw = ImageDraw.Draw(image)
    draw.rectangle((w // 4, h // 5, w * 3 // 4, h * 4 // 5), fill=colour)
    draw.rectangle((w * 2 // 5, h * 2 // 5, w * 3 // 5, h * 3 // 5), fill="white")
    return image


OTHERS = (scene((90, 70), 5), studio((0, 90, 200)))


def same(one: Image.Image, other: Image.Image) -> bool:
    return one.size == other.size and one.tobytes() == other.tobytes()


def hues(image: Image.Image) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    return np.asarray(image.convert("HSV").getchannel(0), dtype=np.float64) * 360 / 256


# -- single edits ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EDITS)
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("others", [(), OTHERS], ids=["alone", "others"])
def test_an_edit_keeps_rgb_and_enough_pixels(name: str, size: tuple[int, int], others: tuple[Image.Image, ...]) -> None:
    for image in (scene(size), studio(size=size), Image.new("RGB", size)):
        before = image.copy()
        for seed in range(8):
            changed = EDITS[name](image, dice(seed), others)
            assert changed.mode == "RGB"
            assert min(changed.size) >= MIN_SIDE_PX
            assert max(changed.size) <= max(1.3 * max(size), 60)
            assert same(image, before)


@pytest.mark.parametrize("name", EDITS)
@pytest.mark.parametrize("image", [scene(), studio()], ids=["shelf", "studio"])
def test_an_edit_changes_the_photo(name: str, image: Image.Image) -> None:
    assert not any(same(EDITS[name](image, dice(seed), OTHERS), image) for seed in range(10) if name != "mirror")
    if name == "mirror":
        assert same(EDITS[name](scene(), dice(), ()), scene().transpose(Image.Transpose.FLIP_LEFT_RIGHT))


@pytest.mark.parametrize("name", EDITS)
def test_an_edit_is_decided_by_the_generator(name: str) -> None:
    made = [EDITS[name](scene(), dice(seed), OTHERS) for seed in (1, 1, 2, 3)]
    assert same(made[0], made[1])
    if name != "mirror":
        assert not all(same(made[0], one) for one in made[2:])


def test_mirrored_twice_is_the_photo() -> None:
    mirror = EDITS["mirror"]
    assert same(mirror(mirror(scene(), dice(), ()), dice(), ()), scene())


@pytest.mark.parametrize("hue", range(0, 360, 30))
def test_colour_changes_keep_the_hue(hue: int) -> None:
    image = Image.new("HSV", (64, 64), (hue * 256 // 360, 200, 180)).convert("RGB")
    before = hues(image).mean()
    for seed in range(25):
        after = hues(EDITS["colour"](image, dice(seed), ()))
        turned = (after - before + 180) % 360 - 180
        assert abs(turned.mean()) < 5  # 3 degrees, and the rounding to 8 bits


def test_colour_changes_do_change_brightness_both_ways() -> None:
    image = scene()
    means = [np.asarray(EDITS["colour"](image, dice(seed), ())).mean() for seed in range(30)]
    middle = np.asarray(image).mean()
    assert min(means) < middle < max(means)
    assert 0.75 * middle < min(means)


def test_light_of_another_colour_moves_red_and_blue_apart() -> None:
    grey = Image.new("RGB", (40, 40), (120, 120, 120))
    for seed in range(20):
        red, _, blue = (int(v) for v in np.asarray(EDITS["white_balance"](grey, dice(seed), ()))[0, 0])
        assert 6 <= abs(red - blue) <= 25


def test_a_crop_is_a_part_of_the_photo() -> None:
    image = scene()
    whole = np.asarray(image)
    for seed in range(10):
        part = np.asarray(EDITS["crop"](image, dice(seed), ()))
        h, w, _ = part.shape
        assert 0.4 < h * w / (whole.shape[0] * whole.shape[1]) < 1
        places = [(y, x) for y in range(whole.shape[0] - h + 1) for x in range(whole.shape[1] - w + 1)
                  if (whole[y, x] == part[0, 0]).all()]  # fmt: skip
        assert any((whole[y : y + h, x : x + w] == part).all() for y, x in places)


def test_a_border_leaves_the_photo_in_the_middle() -> None:
    image = scene()
    for seed in range(10):
        framed = np.asarray(EDITS["border"](image, dice(seed), ()))
        spare_y, spare_x = framed.shape[0] - image.height, framed.shape[1] - image.width
        assert spare_y > 0
        tops = {0, spare_y // 2, spare_y}
        assert any((framed[y : y + image.height, spare_x // 2 : spare_x // 2 + image.width] == image).all() for y in tops)


@pytest.mark.parametrize(("name", "share"), [("text", 0.45), ("badge", 0.2)])
def test_graphics_leave_most_of_the_photo(name: str, share: float) -> None:
    image = scene()
    for seed in range(30):
        changed = np.asarray(EDITS[name](image, dice(seed), ()))
        touched = (changed != np.asarray(image)).any(axis=2).mean()
        assert 0.002 < touched < share


def test_most_of_a_collage_is_the_photo() -> None:
    image, other = Image.new("RGB", (160, 200), "red"), Image.new("RGB", (90, 90), "blue")
    shares = []
    for seed in range(40):
        made = np.asarray(EDITS["collage"](image, dice(seed), (other,)))
        shares.append(((made[..., 0] > 200) & (made[..., 1] < 60)).mean())
        assert shares[-1] > 0.5
    assert min(shares) < 0.8


def test_a_collage_shows_other_photos() -> None:
    image, other = Image.new("RGB", (160, 200), "red"), Image.new("RGB", (90, 90), "blue")
    blue = [(np.asarray(EDITS["collage"](image, dice(seed), (other,)))[..., 2] > 200).mean() for seed in range(40)]
    assert max(blue) > 0.15
    alone = [EDITS["collage"](image, dice(seed), ()) for seed in range(40)]
    assert all(np.asarray(one)[..., 0].mean() > 200 for one in alone)


def test_jpeg_and_noise_stay_close_to_the_photo() -> None:
    image = scene()
    for name, limit in (("jpeg", 12), ("noise", 16)):
        for seed in range(10):
            after = np.asarray(EDITS[name](image, dice(seed), ()), dtype=np.int64)
            assert np.abs(after - np.asarray(image)).mean() < limit


def test_noise_has_no_direction() -> None:
    grey = Image.new("RGB", (120, 120), (128, 128, 128))
    for seed in range(10):
        after = np.asarray(EDITS["noise"](grey, dice(seed), ()), dtype=np.float64)
        assert abs(after.mean() - 128) < 0.5
        assert 3 < after.std() < 15


@pytest.mark.parametrize("name", ["rotation", "perspective"])
def test_turned_studio_photos_keep_their_background(name: str) -> None:
    for seed in range(15):
        changed = np.asarray(EDITS[name](studio(), dice(seed), ()))
        edge = np.concatenate([changed[0], changed[-1], changed[:, 0], changed[:, -1]])
        assert (edge > 250).all()


@pytest.mark.parametrize("name", ["rotation", "perspective", "blur"])
def test_turned_and_moved_shelves_show_nothing_from_outside(name: str) -> None:
    image = Image.new("RGB", (120, 150), (10, 120, 30))
    image.paste((40, 90, 160), (0, 0, 120, 75))  # two colours at the edges: no studio
    for seed in range(15):
        assert np.asarray(EDITS[name](image, dice(seed), ())).max() < 180  # no white corner


@pytest.mark.parametrize("turn", range(4))
def test_motion_does_not_wrap_around(turn: int) -> None:
    image = Image.new("RGB", (200, 200), "black")
    image.paste((255, 255, 255), (0, 0, 20, 200))
    image = image.rotate(90 * turn)
    for seed in range(30):
        moved = EDITS["blur"](image, dice(seed), ()).rotate(-90 * turn)
        assert not np.asarray(moved)[:, -12:].any()


def test_shadow_and_glare_only_darken_and_only_brighten() -> None:
    image = scene()
    before = np.asarray(image, dtype=np.int64)
    for seed in range(10):
        assert (np.asarray(EDITS["shadow"](image, dice(seed), ())) <= before).all()
        assert (np.asarray(EDITS["glare"](image, dice(seed), ())) >= np.minimum(before, 247)).all()


def test_the_thing_is_cut_out_of_a_white_background_with_its_white_label() -> None:
    mask = cut_out(studio())
    assert mask is not None
    inside = np.asarray(mask) > 128
    assert inside[100, 80]  # the label
    assert inside[50, 50]  # the pack
    assert not inside[10, 10]
    assert 0.25 < inside.mean() < 0.33  # the pack is .3 of the photo


@pytest.mark.parametrize("image", [scene(), Image.new("RGB", (50, 50), "white"), Image.new("RGB", (50, 50), "red")])
def test_without_a_white_background_or_a_thing_nothing_is_cut_out(image: Image.Image) -> None:
    assert cut_out(image) is None


def test_clutter_replaces_a_studio_and_keeps_the_thing() -> None:
    dark = (scene((90, 70)).point([v // 4 for v in range(256)] * 3),)
    for seed in range(10):
        made = np.asarray(EDITS["clutter"](studio(), dice(seed), dark), dtype=np.int64)
        red = (made[..., 0] > 150) & (made[..., 1] < 90) & (made[..., 2] < 90)
        assert 0.05 < red.mean() < 0.3
        assert (made.min(axis=2) > 250).mean() < 0.4


def test_a_shelf_shows_the_thing_again_and_again() -> None:
    dark = (scene((90, 70)).point([v // 4 for v in range(256)] * 3),)
    seen = set()
    for seed in range(20):
        made = np.asarray(EDITS["shelf"](studio(), dice(seed), dark), dtype=np.int64)
        assert ((made[..., 0] > 150) & (made[..., 1] < 90) & (made[..., 2] < 90)).mean() > 0.1
        seen.add(ndimage.label(ndimage.binary_opening(made.min(axis=2) > 230, np.ones((3, 3))))[1])  # its white labels
    assert max(seen) >= 4


def test_a_flat_edge_is_found_and_a_lively_one_is_not() -> None:
    assert photo_edits.flat_edge(studio()) == (255, 255, 255)
    assert photo_edits.flat_edge(scene()) is None


# -- the policy -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("image", [scene(), scene((1500, 20)), noise(1, 20, 20)], ids=["usual", "long", "small"])
def test_strength_0_leaves_the_photo_as_it_is(image: Image.Image) -> None:
    assert same(augment(image, PhotoAugmentation(strength=0, phone=1, crop=1), dice(), OTHERS), image)


@pytest.mark.parametrize("how", [PhotoAugmentation(), EVERYTHING], ids=["default", "everything"])
def test_a_photo_is_decided_by_the_generator_alone(how: PhotoAugmentation) -> None:
    first = [augment(scene(), how, dice(seed), OTHERS) for seed in range(12)]
    np.random.seed(5)
    again = [augment(scene(), how, dice(seed), OTHERS) for seed in range(12)]
    assert all(map(same, first, again))
    assert len({one.tobytes() for one in first}) >= 10  # some only mirrored, or not at all


@pytest.mark.parametrize("size", [(60, 80), (256, 256), (4000, 3000), (16, 400), (3000, 20), (1, 1)], ids=str)
@pytest.mark.parametrize("how", [PhotoAugmentation(), EVERYTHING], ids=["default", "everything"])
def test_a_photo_of_any_size_comes_back_within_bounds(size: tuple[int, int], how: PhotoAugmentation) -> None:
    image = scene(size)
    before = image.copy()
    for seed in range(6):
        changed = augment(image, how, dice(seed), OTHERS)
        assert changed.mode == "RGB"
        assert min(changed.size) >= MIN_SIDE_PX
        assert max(changed.size) <= MAX_SIDE_PX
    assert same(image, before)


def test_there_is_one_probability_for_every_edit() -> None:
    assert sorted(ALL) == sorted(EDITS)
    assert dict(EDITS) == {**PHONE_EDITS, **SELLER_EDITS}
    assert set(SELLER_EDITS) >= GRAPHICS


@pytest.mark.parametrize("name", EDITS)
def test_an_edit_alone_is_the_named_edit(name: str) -> None:
    none = dict.fromkeys(ALL, 0.0)
    how = PhotoAugmentation(phone=1, phone_graphics=1, **{**none, name: 1.0})
    random = dice(3)
    random.random(len(EDITS) + 2)  # the policy's own dice
    assert same(augment(scene(), how, dice(3), OTHERS), EDITS[name](scene(), random, OTHERS))


def test_without_a_phone_there_are_no_phone_edits() -> None:
    how = PhotoAugmentation(phone=0, **{name: float(name in PHONE_EDITS) for name in ALL})
    assert all(same(augment(scene(), how, dice(seed), OTHERS), scene()) for seed in range(10))


def test_phone_photos_get_graphics_only_where_they_may() -> None:
    plain = {name: float(name in GRAPHICS) for name in ALL}
    never, always = (PhotoAugmentation(phone=1, phone_graphics=p, **plain) for p in (0, 1))
    assert all(same(augment(scene(), never, dice(seed), OTHERS), scene()) for seed in range(10))
    assert not any(same(augment(scene(), always, dice(seed), OTHERS), scene()) for seed in range(10))


def test_studio_photos_get_graphics_whatever_phone_photos_get() -> None:
    how = PhotoAugmentation(phone=0, phone_graphics=0, **{name: float(name in GRAPHICS) for name in ALL})
    assert not any(same(augment(scene(), how, dice(seed), OTHERS), scene()) for seed in range(10))


def test_strength_scales_how_often() -> None:
    def mirrored(strength: float) -> int:
        how = PhotoAugmentation(strength=strength, phone=0, **{name: 0.4 * (name == "mirror") for name in ALL})
        return sum(not same(augment(scene(), how, dice(seed)), scene()) for seed in range(200))

    assert 20 < mirrored(0.5) < 60
    assert 60 < mirrored(1) < 100
    assert mirrored(9) == 200


@pytest.mark.parametrize("wrong", [{"strength": -0.1}, {"strength": float("nan")}, {"crop": 1.01}, {"phone": -0.2}])
def test_probabilities_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(InvalidInput, match=next(iter(wrong))):
        PhotoAugmentation(**wrong)
