"""The benchmark of the GPU on a few items: what it measures says nothing here, that it runs does."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

from app.encoders.multimodal import MultimodalEncoder
from app.encoders.runtime import choose
from app.model_store import read_manifest
from tests import tiny
from tests.benchmarks import gpu, made_up
from tests.benchmarks.timed import Bench

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gpu")
    return tiny.bundle(folder)


def test_it_runs_with_weights_that_are_made_up(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("bundle.json", "title_config.json", "tokenizer.json"):
        (tmp_path / name).write_bytes((bundle / name).read_bytes())
    out = tmp_path / "figures.json"
    given = ["gpu", "--random", "--bundle", str(tmp_path), "--seconds", "0.01", "--json", str(out)]
    monkeypatch.setattr(sys, "argv", given)
    gpu.main()
    rows = json.loads(out.read_text("utf-8"))
    assert not [row for row in rows if {"failed", "skipped"} & row[2].keys()]
    shares = [figures["% of the towers"] for section, _, figures in rows if section == "from bytes"]
    assert len(shares) == 2
    assert min(shares) > 0
    assert "made-up weights image.safetensors, title.safetensors" in capsys.readouterr().out


def test_only_what_is_missing_is_made_up(bundle: Path, tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    target.mkdir()
    for name in ("image.safetensors", "title_config.json", "tokenizer.json"):
        (source / name).write_bytes((bundle / name).read_bytes())
    spec = read_manifest(bundle).spec()
    assert made_up.complete(spec, source, target) == ["title.safetensors"]
    assert (target / "image.safetensors").read_bytes() == (bundle / "image.safetensors").read_bytes()
    encoder = MultimodalEncoder(spec, target, choose("cpu", "torch"))
    assert encoder.embed_titles(["apple"]).shape == (1, spec.title_dim)


def test_photos_and_titles_differ() -> None:
    photos = made_up.photos(200, lambda edit, numbers: [edit(number) for number in numbers])
    assert len(set(photos)) == 200
    assert len(set(made_up.titles(2000))) > 1990


def test_what_fails_or_comes_too_late_is_said_and_the_rest_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    bench = Bench(CPU, 0.01, 60.0, None)

    def fail() -> dict[str, object]:
        raise RuntimeError("out of memory")

    assert bench.attempt("a", "b", fail) == {}
    assert bench.attempt("a", "c", lambda: {"x": 1.0}) == {"x": 1.0}
    bench.limit = 0.0
    assert bench.attempt("a", "d", lambda: {"x": 2.0}) == {}
    bench.table()
    printed = capsys.readouterr().out
    assert "| a | b | failed RuntimeError: out of memory |" in printed
    assert "| a | d | skipped no time left |" in printed
    assert bench.rate(lambda: None, 10) > 0
