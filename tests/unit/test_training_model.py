"""The model in training: normalisation beside a tower, and the dropout inside one."""

from __future__ import annotations

import pytest
import torch

from app.core.spec import EncoderSpec, FusionSpec, ImageSpec, Preprocessing
from app.encoders.image import ImageTower
from app.encoders.pretrained import ImageOptions, TitleOptions
from app.encoders.title import TitleTokens
from app.training.config import TrainingConfig
from app.training.model import NormalisedTower, TrainingModel
from app.training.start import Towers, prepare
from app.training.trainer import set_dropout
from tests import tiny

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


@pytest.mark.parametrize(("dropout", "noisy"), [(None, True), (0.0, False), (0.3, True)])
def test_dropout_is_what_the_configuration_says(
    dropout: float | None, noisy: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("dropout")
    towers = Towers(None, str(tiny.title_encoder(folder)), ImageOptions(), TitleOptions("", 24), title_dim=16)
    spec, _, tower = prepare(towers, folder)
    assert tower is not None
    assert spec.title is not None
    config = TrainingConfig(dropout=dropout)
    model = TrainingModel(spec, None, tower, 2, config)
    set_dropout(model, config)
    batch = TitleTokens(spec.title, folder / spec.title.tokenizer)(["red shoe 42", "blue bag"])
    calm = model.eval().title.tower.features(batch)  # type: ignore[union-attr]
    trained = model.train().title.tower.features(batch)  # type: ignore[union-attr]
    assert bool((calm - trained).abs().max() > 1e-4) is noisy


@pytest.mark.parametrize(("fall", "last"), [(0.0, 1.0), (0.3, 0.75)])
def test_heads_know_the_sizes_of_their_groups(fall: float, last: float) -> None:
    config = TrainingConfig(margin=0.6, margin_fall=fall)
    spec = EncoderSpec(image=SPEC, title=None, fusion=FusionSpec(weight=1.0))
    model = TrainingModel(spec, ImageTower(SPEC), None, 3, config)
    model.set_sizes(torch.tensor([1, 2, 32]))
    for head in model.arcface_heads().values():
        assert head.shares.tolist() == pytest.approx([1.0, 1.0, last])
