"""Bundles from small real encoders, through the commands that people use."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from app.__main__ import cli
from app.bootstrap import build_encoder
from app.core.product import Floats, Prepared
from app.embedding import embed
from app.encoders.quantise import dequantised, quantised
from app.errors import AppError, BundleError, DimensionMismatch, InvalidInput
from app.model_store import load_bundle
from app.settings import Settings
from tests import tiny
from tests.fakes import photo

WORDS = ["apple", "pear", "melon", "carrot", "leek", "onion", "plum", "kiwi"]


@pytest.fixture(scope="module")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp("encoders")
    return str(tiny.image_encoder(folder)), str(tiny.title_encoder(folder))


@pytest.fixture(scope="module")
def listings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """120 listings in 60 groups; every fourth has a photo that is damaged or none."""
    folder = tmp_path_factory.mktemp("listings")
    rng = np.random.default_rng(0)
    with (folder / "listings.csv").open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["id", "title", "image", "group"])
        for n in range(120):
            (folder / f"{n}.png").write_bytes(photo(tuple(rng.integers(0, 255, 3))) if n % 8 != 1 else b"damaged")
            title = f"{WORDS[n // 2 % 8]} {WORDS[n // 16]} {n // 2}{' new' * (n % 2)}"
            writer.writerow([n, title, f"{n}.png" if n % 4 else "", n // 2])
    return folder / "listings.csv"


def run(*arguments: str | Path) -> str:
    outcome = CliRunner().invoke(cli, [str(one) for one in arguments], catch_exceptions=False)
    assert outcome.exit_code == 0, outcome.output
    return outcome.output


def vectors(folder: Path) -> tuple[Floats, Floats]:
    encoder = build_encoder(Settings(device="cpu"), load_bundle(folder))
    pixels = encoder.read_photo(photo((200, 40, 90)))[1]
    one = embed(encoder, [Prepared((pixels,), "apple pear 3")])[0]
    assert one.title is not None
    return one.images[0], one.title


def test_a_bundle_is_made_inspected_verified_and_calibrated(
    tmp_path: Path, encoders: tuple[str, str], listings: Path
) -> None:
    out = tmp_path / "mine"
    run("bundle", "create", "--image-encoder", encoders[0], "--title-encoder", encoders[1], "--weight", "0.3", "--out", out)
    assert "w = 0.3" in run("bundle", "inspect", out)
    assert "vectors of length 1" in run("bundle", "verify", out)
    before = load_bundle(out)
    run("calibrate", "--bundle", out, "--listings", listings, "--report", listings)
    after = load_bundle(out)
    assert after.fingerprint == before.fingerprint
    assert after.manifest.thresholds != before.manifest.thresholds
    points = [one for one in after.manifest.metrics["held_out"] if "modality" in one]
    assert {one["modality"] for one in points} == {"fused", "image", "title"}


def test_projections_and_small_storage_hardly_change_the_vectors(
    tmp_path: Path, encoders: tuple[str, str], listings: Path
) -> None:
    given = ("--image-encoder", encoders[0], "--title-encoder", encoders[1], "--pooling", "avg")
    fit = ("--fit-on", listings, "--image-dim", "16", "--title-dim", "8")
    run("bundle", "create", *given, *fit, "--precision", "fp32", "--out", tmp_path / "exact")
    run("bundle", "create", *given, *fit, "--int8-words", "--out", tmp_path / "small")
    exact, small = vectors(tmp_path / "exact"), vectors(tmp_path / "small")
    assert [len(one) for one in exact] == [16, 8]
    assert all(float(one @ other) > 0.99 for one, other in zip(exact, small, strict=True))
    assert (
        load_file(tmp_path / "small" / "title.safetensors")["backbone.embeddings.word_embeddings.weight"].dtype == torch.int8
    )


def test_a_smaller_vocabulary_reads_what_it_kept_as_before(tmp_path: Path, encoders: tuple[str, str]) -> None:
    given = ("--title-encoder", encoders[1], "--precision", "fp32")
    run("bundle", "create", *given, "--out", tmp_path / "whole")
    run("bundle", "create", *given, "--vocabulary", "1500", "--scripts", "latin", "--out", tmp_path / "cut")
    whole, cut = (build_encoder(Settings(device="cpu"), load_bundle(tmp_path / name)) for name in ("whole", "cut"))
    np.testing.assert_allclose(whole.embed_titles(["aa ab"]), cut.embed_titles(["aa ab"]), atol=1e-6)
    tables = (
        load_file(tmp_path / n / "title.safetensors")["backbone.embeddings.word_embeddings.weight"] for n in ("whole", "cut")
    )
    assert next(tables).shape[0] > next(tables).shape[0] >= 1500


def test_a_bundle_with_one_tower_stores_what_it_cannot_read(
    tmp_path: Path, encoders: tuple[str, str], listings: Path
) -> None:
    run("bundle", "create", "--title-encoder", encoders[1], "--out", tmp_path / "titles")
    run("bundle", "create", "--image-encoder", encoders[0], "--out", tmp_path / "photos")
    for name, modalities in (("titles", {"title"}), ("photos", {"image"})):
        assert load_bundle(tmp_path / name).manifest.spec().modalities() == modalities
        run("bundle", "verify", tmp_path / name)
        run("calibrate", "--bundle", tmp_path / name, "--listings", listings)


def test_a_catalog_is_indexed_matched_and_embedded_again_by_another_bundle(
    tmp_path: Path, encoders: tuple[str, str], listings: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAMESKU_DATA_DIR", str(tmp_path / "data"))
    both, titles = tmp_path / "both", tmp_path / "titles"
    run("bundle", "create", "--image-encoder", encoders[0], "--title-encoder", encoders[1], "--out", both)
    run("bundle", "create", "--title-encoder", encoders[1], "--out", titles)
    assert "15 skipped" in run("index", listings, "--bundle", both)
    assert "105 unchanged" in run("index", listings, "--bundle", both)
    for ending in ("csv", "ndjson", "parquet"):
        run("match", listings, "--bundle", both, "--limit", "1", "--out", tmp_path / f"out.{ending}")
    lines = [json.loads(line) for line in (tmp_path / "out.ndjson").read_text().splitlines()]
    assert len(lines) == 120
    assert sum(line["error"] is not None for line in lines) == 15
    with pytest.raises(AppError, match="index --reembed"):
        run("index", listings, "--bundle", titles)
    assert "105 products embedded by titles" in run("index", "--reembed", "--bundle", titles)
    assert "105 unchanged" in run("index", listings, "--bundle", titles)
    assert "embedded by titles" in run("index", "--reembed", "--bundle", titles)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((), InvalidInput, "at least one tower"),
        (("--image-encoder", "no_such_backbone"), InvalidInput, "no image encoder"),
        (("--title-encoder", "no/such-encoder"), InvalidInput, "no title encoder"),
        (("--image-encoder", "IMAGE", "--title-encoder", "TITLE", "--weight", "1"), InvalidInput, "must lie in"),
        (("--title-encoder", "TITLE", "--vocabulary", "10"), InvalidInput, "at least 1000"),
        (("--title-encoder", "TITLE", "--vocabulary", "1000", "--scripts", "thai"), InvalidInput, "no pieces in thai"),
        (("--title-encoder", "TITLE", "--fit-on", "LISTINGS", "--title-dim", "200"), InvalidInput, "1 to 32 dimensions"),
    ],
)
def test_a_recipe_that_cannot_be_made_is_refused(
    tmp_path: Path, encoders: tuple[str, str], listings: Path, monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...], error: type[AppError], message: str,
) -> None:  # fmt: skip
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    places = {"IMAGE": encoders[0], "TITLE": encoders[1], "LISTINGS": str(listings)}
    with pytest.raises(error, match=message):
        run("bundle", "create", *(places.get(one, one) for one in arguments), "--out", tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_no_bundle_is_left_alone(tmp_path: Path, encoders: tuple[str, str]) -> None:
    (tmp_path / "photos.txt").write_text("mine")
    with pytest.raises(BundleError, match="is no bundle"):
        run("bundle", "create", "--title-encoder", encoders[1], "--out", tmp_path)
    assert (tmp_path / "photos.txt").read_text() == "mine"


def test_weights_of_another_architecture_are_refused(tmp_path: Path, encoders: tuple[str, str]) -> None:
    run("bundle", "create", "--image-encoder", encoders[0], "--out", tmp_path / "one")
    bundle = load_bundle(tmp_path / "one")
    image = bundle.manifest.image
    assert image is not None
    other = image.model_copy(update={"architecture": "mobilenetv3_small_075"})
    bundle.manifest = bundle.manifest.model_copy(update={"image": other})
    with pytest.raises(DimensionMismatch, match="does not fit"):
        build_encoder(Settings(device="cpu"), bundle)


def test_eight_bits_err_by_half_a_step_at_most() -> None:
    table = torch.randn(50, 16, generator=torch.Generator().manual_seed(1))
    stored = quantised("words", table)
    restored = dequantised(stored | {"bias": torch.ones(3, dtype=torch.float16)})
    assert set(restored) == {"words", "bias"}
    assert restored["bias"].dtype == torch.float32
    assert ((restored["words"] - table).abs() <= stored["words.scale"] / 2 + 1e-7).all()
