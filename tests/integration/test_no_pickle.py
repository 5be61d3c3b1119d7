"""A model that brings a pickle is not loaded, and what the pickle would do is not done."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from app.bundling import Recipe, create
from app.encoders.pretrained import ImageOptions
from app.errors import InvalidInput
from tests import tiny

NAMES = ("pytorch_model.bin", "pytorch_model.pth", "model.pth", "weights.bin")


class Trap:
    """Makes a file when it is unpickled."""

    def __init__(self, sprung: Path) -> None:
        self._sprung = sprung

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str, str]]:
        return open, (str(self._sprung), "w")


@pytest.mark.parametrize("name", NAMES)
def test_a_pickle_is_no_photo_tower(tmp_path: Path, name: str) -> None:
    sprung, model = tmp_path / "sprung", tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text(json.dumps({"architecture": "mobilenetv3_small_050", "num_features": 1024}))
    (model / name).write_bytes(pickle.dumps(Trap(sprung)))
    for source in (model, model / name):
        with pytest.raises(InvalidInput, match="safetensors"):
            create(Recipe(str(source), None, image=ImageOptions("avg", size=64)), tmp_path / "bundle")
    assert not sprung.exists()


@pytest.mark.parametrize("name", NAMES)
def test_a_pickle_is_no_title_tower(tmp_path: Path, name: str) -> None:
    sprung, model = tmp_path / "sprung", tiny.title_encoder(tmp_path)
    (model / "model.safetensors").unlink()
    (model / name).write_bytes(pickle.dumps(Trap(sprung)))
    with pytest.raises(InvalidInput, match="safetensors"):
        create(Recipe(None, str(model)), tmp_path / "bundle")
    assert not sprung.exists()


def test_code_that_a_title_tower_brings_is_not_run(tmp_path: Path) -> None:
    sprung, model = tmp_path / "sprung", tiny.title_encoder(tmp_path)
    config = json.loads((model / "config.json").read_text())
    mapped = {"AutoConfig": "own.Config", "AutoModel": "own.Model"}
    (model / "config.json").write_text(json.dumps(config | {"auto_map": mapped, "model_type": "unheard-of"}))
    (model / "own.py").write_text(f"open({str(sprung)!r}, 'w')")
    with pytest.raises(InvalidInput):
        create(Recipe(None, str(model)), tmp_path / "bundle")
    assert not sprung.exists()


def test_the_trap_works(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Trap(tmp_path / "sprung"))).close()
    assert (tmp_path / "sprung").exists()
