"""Batch normalisation beside a tower: the identity at first, one linear layer with the projection at the end."""

from __future__ import annotations

import pytest
import torch

from app.core.spec import ImageSpec, Preprocessing
from app.encoders.image import ImageTower
from app.training.model import NormalisedTower

PIXELS = Preprocessing(size=32, framing="stretch", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
SPEC = ImageSpec(
    architecture="mobilenetv3_small_050", weights="image.safetensors", pooling="avg", features=1024, dim=24, projection=True,
    preprocessing=PIXELS,
)  # fmt: skip


@pytest.fixture(scope="module")
def tower() -> NormalisedTower[ImageTower]:
    torch.manual_seed(0)
    return NormalisedTower(ImageTower(SPEC))


def features(rows: int, seed: int = 1) -> torch.Tensor:
    """Far from centred, and of very different spreads."""
    generator = torch.Generator().manual_seed(seed)
    spread = torch.logspace(-2, 1, SPEC.features)
    return 3 + spread * torch.randn(rows, SPEC.features, generator=generator)


def test_normalisation_begins_as_the_identity(tower: NormalisedTower[ImageTower]) -> None:
    rows = features(200)
    tower.begin(rows)
    projected = tower.projection(rows)
    torch.testing.assert_close(tower.eval()(rows), projected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(tower.train()(rows), projected, rtol=0.02, atol=0.02)


def test_the_folded_layer_is_projection_and_normalisation(tower: NormalisedTower[ImageTower]) -> None:
    tower.begin(features(200))
    tower.train()
    with torch.no_grad():
        tower.norm.weight.mul_(torch.linspace(0.3, 3, 24))
        tower.norm.bias.add_(torch.linspace(-2, 2, 24))
        for seed in range(5):
            tower(2 * features(16, seed) - 1)  # moves the running statistics
        rows = features(50, seed=9)
        expected = tower.eval()(rows)
        assert (expected - tower.projection(rows)).abs().max() > 0.5  # there is something to fold
        torch.testing.assert_close(tower.folded()(rows), expected, rtol=1e-5, atol=1e-5)


def test_one_row_is_normalised_as_in_evaluation(tower: NormalisedTower[ImageTower]) -> None:
    rows = features(2)
    alone = tower.train()(rows[:1])
    assert torch.isfinite(alone).all()
    torch.testing.assert_close(alone, tower.eval()(rows)[:1])
    alone.sum().backward()
    assert tower.norm.bias.grad is not None
