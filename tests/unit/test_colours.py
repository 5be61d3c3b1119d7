"""The histogram of colours: colours near known CIELAB values, weighted by where the backbone looks."""

from __future__ import annotations

import pytest
import timm
import torch

from app.core.spec import ImageSpec, Preprocessing
from app.encoders.colours import BLUE_YELLOW, GREEN_RED, LIGHTNESS, WIDTH, colour_histogram
from app.encoders.image import ImageTower

EVEN = torch.ones(1, 4, 2, 2)


def plain(red: float, green: float, blue: float) -> torch.Tensor:
    return torch.tensor([red, green, blue]).view(1, 3, 1, 1).expand(1, 3, 64, 64)


@pytest.mark.parametrize(
    ("colour", "lab"),
    [  # CIELAB under D65, as published for sRGB
        ((0.0, 0.0, 0.0), (0.0, 0.0, 0.0)),
        ((1.0, 1.0, 1.0), (100.0, 0.0, 0.0)),
        ((0.5, 0.5, 0.5), (53.39, 0.0, 0.0)),
        ((128 / 255, 0.0, 0.0), (25.53, 48.05, 38.06)),
        ((0.0, 128 / 255, 128 / 255), (48.25, -28.84, -8.48)),
        ((128 / 255, 128 / 255, 0.0), (51.87, -12.93, 56.68)),
        ((0.0, 0.0, 128 / 255), (12.97, 47.50, -64.70)),
    ],
)
def test_a_plain_photo_is_counted_where_its_colour_lies_in_cielab(
    colour: tuple[float, float, float], lab: tuple[float, float, float]
) -> None:
    shares = colour_histogram(plain(*colour), EVEN).square().view(LIGHTNESS, GREEN_RED, BLUE_YELLOW)
    for axis, (value, low, high) in enumerate(zip(lab, (0, -60, -60), (100, 60, 60), strict=True)):
        counted = shares.sum(dim=[other for other in range(3) if other != axis])
        place = (max(low, min(high, value)) - low) / (high - low) * (len(counted) - 1)
        assert abs(int(counted.argmax()) - place) <= 0.51


def test_rows_have_unit_length_whatever_the_size_and_the_maps() -> None:
    torch.manual_seed(0)
    for side, maps in ((32, torch.randn(3, 5, 1, 1)), (224, torch.randn(3, 5, 7, 7)), (97, torch.zeros(3, 5, 4, 4))):
        rows = colour_histogram(torch.rand(3, 3, side, side), maps)
        assert rows.shape == (3, WIDTH)
        torch.testing.assert_close(rows.norm(dim=1), torch.ones(3), atol=1e-4, rtol=0)


def test_what_the_backbone_does_not_look_at_does_not_count() -> None:
    photo = torch.cat([plain(0.6, 0.1, 0.1)[..., :32], plain(1, 1, 1)[..., :32]], dim=3)
    looks = torch.zeros(1, 4, 8, 8)
    looks[..., :3] = 1
    red, white = (colour_histogram(plain(*one), EVEN) for one in ((0.6, 0.1, 0.1), (1.0, 1.0, 1.0)))
    seen, evenly = colour_histogram(photo, looks), colour_histogram(photo, EVEN)
    assert float(seen @ red.T) > 0.99
    assert float(seen @ white.T) < 0.1
    assert float(evenly @ white.T) > 0.6


def test_a_little_more_light_moves_little_and_another_colour_moves_much() -> None:
    blue = colour_histogram(plain(0.20, 0.30, 0.60), EVEN)
    assert float(blue @ colour_histogram(plain(0.22, 0.33, 0.66), EVEN).T) > 0.9
    assert float(blue @ colour_histogram(plain(0.60, 0.30, 0.20), EVEN).T) < 0.3


@pytest.mark.parametrize(
    "architecture", ["mobilenetv3_small_050", "convnext_atto", "swin_tiny_patch4_window7_224", "vit_tiny_patch16_224"]
)
def test_colours_join_the_pooled_maps_of_any_family(architecture: str) -> None:
    torch.manual_seed(0)
    backbone = timm.create_model(architecture, pretrained=False, num_classes=0, global_pool="")
    own, side = int(backbone.num_features), 224 if "_224" in architecture else 64
    own = int(backbone(torch.zeros(2, 3, side, side)).shape[1]) if architecture.startswith("mobilenet") else own
    how = Preprocessing(size=side, framing="stretch", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    spec = ImageSpec(
        architecture=architecture, weights="w", pooling="avg", features=own, dim=own, projection=False, preprocessing=how
    )
    plainly, coloured = (
        ImageTower(spec.model_copy(update={"colours": on or None, "features": own + on * WIDTH})).eval()
        for on in (False, True)
    )
    coloured.load_state_dict(plainly.state_dict())
    pixels = torch.randint(0, 256, (2, 3, side, side), dtype=torch.uint8)
    with torch.inference_mode():
        torch.testing.assert_close(coloured.features(pixels)[:, :own], plainly.features(pixels))
        torch.testing.assert_close(coloured.features(pixels)[:, own:].norm(dim=1), torch.ones(2), atol=1e-4, rtol=0)


def test_colours_are_counted_in_float32_under_bfloat16() -> None:
    photos = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(3))
    maps = torch.rand(2, 4, 2, 2, generator=torch.Generator().manual_seed(4))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under = colour_histogram(photos, maps)
    assert under.dtype == torch.float32
    assert torch.equal(under, colour_histogram(photos, maps))
