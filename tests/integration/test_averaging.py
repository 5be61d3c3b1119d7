"""The mean of several runs' weights, and towers whose weights are stored in 8 bits."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from app.averaging import average
from app.bootstrap import build_encoder
from app.bundling import Recipe, create
from app.encoders.pretrained import ImageOptions, TitleOptions
from app.encoders.quantise import dequantised
from app.ensembling import combine
from app.errors import InvalidInput
from app.model_store import Bundle, Manifest, load_bundle, write_bundle
from app.settings import Settings
from tests import tiny

IMAGE, TITLE = "image.safetensors", "title.safetensors"
TITLES = ["apple pear 3", "melon 500 g"]


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of both towers, in float32, where other runs can have begun."""
    folder = tmp_path_factory.mktemp("runs")
    towers = str(tiny.image_encoder(folder)), str(tiny.title_encoder(folder))
    recipe = Recipe(*towers, 0.4, ImageOptions("avg", size=64), TitleOptions("query: ", int8_words=True), precision="fp32")
    create(recipe, folder / "start")
    return folder / "start"


def moved(start: Path, name: str, by: float, words: str = "", **changes: object) -> Path:
    """A run that went on from there: every weight of its backbones is a little elsewhere."""
    found = load_bundle(start)

    def fill(folder: Path) -> Manifest:
        for file in found.manifest.files:
            (folder / file).write_bytes((start / file).read_bytes())
        (folder / "tokenizer.json").write_text((start / "tokenizer.json").read_text("utf-8") + words, "utf-8")
        for file in (IMAGE, TITLE):
            weights = dequantised(load_file(start / file))
            save_file({key: t + by if t.is_floating_point() else t for key, t in weights.items()}, folder / file)
        return found.manifest.model_copy(update={"name": name, **changes})

    return write_bundle(start.parent / name, fill).folder


def weights_of(bundle: Bundle, file: str) -> dict[str, torch.Tensor]:
    return dequantised(load_file(bundle.folder / file))


def test_weights_are_the_mean_and_count_what_is_not_a_number_once(start: Path, tmp_path: Path) -> None:
    other = moved(start, "other", 0.02)
    mean = average([start, other], tmp_path / "mean", "fp32")
    for file in (IMAGE, TITLE):
        first = weights_of(load_bundle(start), file)
        for name, tensor in weights_of(mean, file).items():
            wanted = first[name] + 0.01 if tensor.is_floating_point() else first[name]
            assert torch.allclose(tensor.float(), wanted.float(), atol=1e-6), name
    assert load_bundle(mean.folder).manifest.pairs is None


def test_the_mean_of_a_run_and_itself_is_that_run(start: Path, tmp_path: Path) -> None:
    same = average([start, start], tmp_path / "same", "fp32")
    photo = np.random.default_rng(1).integers(0, 256, (64, 64, 3), np.uint8)
    one, two = (
        build_encoder(Settings(device="cpu", engine="torch"), load_bundle(folder)) for folder in (start, same.folder)
    )
    assert np.allclose(one.embed_photos([photo]), two.embed_photos([photo]), atol=1e-6)
    assert np.allclose(one.embed_titles(TITLES), two.embed_titles(TITLES), atol=1e-3)  # its words lie in 8 bits in `start`


def test_eight_bits_for_all_weights_are_a_quarter_and_say_nearly_the_same(start: Path, tmp_path: Path) -> None:
    whole, narrow = (average([start, start], tmp_path / how, how) for how in ("fp32", "int8"))
    sizes = [(one.folder / IMAGE).stat().st_size for one in (whole, narrow)]
    assert sizes[1] < 0.4 * sizes[0]
    photo = np.random.default_rng(2).integers(0, 256, (64, 64, 3), np.uint8)
    vectors = [
        build_encoder(Settings(device="cpu", engine="torch"), load_bundle(one.folder)).embed_photos([photo])[0]
        for one in (whole, narrow)
    ]
    assert float(vectors[0] @ vectors[1]) > 0.999


def test_towers_that_are_not_built_alike_have_no_mean(start: Path, tmp_path: Path) -> None:
    image = load_bundle(start).manifest.image
    assert image is not None
    other = moved(start, "padded", 0.0, image=image.model_copy(update={"pooling": "gem"}))
    with pytest.raises(InvalidInput, match="not built alike"):
        average([start, other], tmp_path / "mean")
    with pytest.raises(InvalidInput, match="two bundles or more"):
        average([start], tmp_path / "mean")
    with pytest.raises(InvalidInput, match="choose another --out"):
        average([start, other], other)


def test_other_words_are_another_tower(start: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="cut titles differently"):
        average([start, moved(start, "otherwords", 0.0, words="\n")], tmp_path / "mean")


def test_ensembles_have_no_mean(start: Path, tmp_path: Path) -> None:
    both = combine([start, moved(start, "second", 0.01)], tmp_path / "both").folder
    with pytest.raises(InvalidInput, match="ensembles"):
        average([both, start], tmp_path / "mean")
